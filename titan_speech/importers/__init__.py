"""What teams already have, as samples of a token store.

inputs --> format.py   the seam: units of input (a shard, a range of rows) and the samples in each
              |
              v
           formats/    one module a format           text/   documents, and what is done to them before
              |
              v
           samples.py  SpeechSample, TextSample: what `StoreWriter` takes
              |
              v
           build/      `titan-speech store build`: all units in parallel, continued after any kill
"""
