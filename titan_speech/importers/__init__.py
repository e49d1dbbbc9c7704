"""Importers: what a team already has, as samples of a token store; and the build of the store from them.

inputs
  |   registry.py, base.py     names of `--from`; the interface: an Importer lists units (a shard, a range of rows)
  |                            and reads the samples of one unit
  |   files.py                 input files, splits, hints such as "looks like another format"
  |
  |   speech   parquet.py jsonl.py webdataset.py mds.py inworld.py llasa.py   codes that exist
  |            audio_listing.py -> audio.py          audio, encoded as it is imported
  |            listing_formats.py                    metadata.csv, Kaldi, NeMo: rows of a listing
  |            npy.py                                arrays of others
  |            columns.py -> records.py              which column holds which field; a record -> a sample
  |            limits.py                             how much one sample may take
  |            sample_filter.py                      samples left out because the user asked for it
  |   text     text_lines.py -> text_files.py -> text_documents.py
  |            text_prepared.py                     the output of `text prepare`
  |            markup.py                             text of HTML, and what parsing it would cost
  |            language_id.py                        which language a document is in
  v
samples of one unit after another
  |   build.py                 `titan-speech store build`: all units in parallel, continued after any kill
  |   build_workers.py         what one process does
  |   build_folder.py          what is finished
  v
a token store
"""
