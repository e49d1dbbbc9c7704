"""The token store on disk: written whole or not at all, read as views of its files.

samples --> sample_sorter.py     checked and tokenized, written as sorted runs     (sample, problems)
            external_sort.py     the runs on disk; order keys and checksums
            sample_conflicts.py  duplicate ids and contradicting segments over all runs
            shard_writer.py      runs merged to shards of equal size
            writer.py            StoreWriter: the steps above in one process, manifest last
                |
                v
            STORE/manifest.json + <part>/00000.{tokens, text.*, parquet}
                |                    (manifest, manifest_reader, files, tasks)
                v
            reader.py            open_store: sizes compared at once, contents verified when first read
                                 (shard_reader, derived_cache; remote_files for object storage)
            mapped_files.py      files looked at again while a run reads them
            describe.py          what a store holds
            verify.py            every byte read, all problems named               (verify_shard)
            transfer.py          push to object storage, pull from it
            assemble.py          a new store out of existing shards: merge.py, migrate.py, held_out_choice.py
            score_columns.py     scores of samples, next to the shards
            held_out_set.py      the held-out validation set, which training never reads (held_out_candidates)
"""
