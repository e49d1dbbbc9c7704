"""What teams already have, as samples of a token store.

inputs --> format.py   units of input (a shard, a range of rows) and the samples in each     one module a format
              |
              v
           columns.py  which column holds which field; records.py: one mapping a sample, checked
              |
              v
           samples.py  SpeechSample, TextSample: what `StoreWriter` takes
"""
