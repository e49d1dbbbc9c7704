"""From TOML files and the command line to one `SpeechConfig`, before any process group exists.

    words of the command line
      |  load.py         finds the file, follows `[job] extends`, merges the files
      |  toml_text.py    reads a file: every key has its line  -> tree.py, values with their origin
      |  overrides.py    applies `--table.key value`
      |  convert.py      checks names, types and choices       -> schema.py and schema_*.py, by fields.py
      |  preflight/      checks bounds and contradictions, as a function that load.py is given
      |  store_names.py  replaces names of [data.stores] by paths
      |  sample_conditions.py reads conditions on samples: dnsmos >= 3.2 and cps < 25
    SpeechConfig
      |  budget.py       derives steps, accumulation and learning rates from the token budget
      |  resolved.py     writes the resolved configuration as TOML, which is saved with the run

help.py prints the schema for `--config-help`. Every step collects problems (problem.py), so that one `ConfigError`
names all of them, each with its file and line. Nothing here imports torch or numpy.

The keys: schema_training.py  what a run trains and how       schema_data.py        what it reads
          schema_operations.py  how it is operated            schema_parallelism.py  how a step is computed
"""
