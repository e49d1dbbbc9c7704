"""The token store on disk: written whole or not at all, read as views of its files.

samples --> builder.py   StoreWriter: checked, shuffled once, cut into shards      (samples, problems, write/)
               |
               v
           STORE/manifest.json + <part>/00000.{tokens, text.*, parquet}            (manifest)
               |
               v
           store.py      open_store: sizes checked at once, contents when first read (part, shards, files, derived)
           describe.py   what is in it                                                (tasks)
           verify.py     every byte read, all that is wrong named                     (verify_shard)
           audit/        is it good: samples checked, shown and made audible on a page
           change/       several as one; another tokenizer                            (normalizations)
           gold/         the frozen validation set, which training never reads
"""
