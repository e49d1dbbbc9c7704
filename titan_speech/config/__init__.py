"""From a TOML file and the command line to one checked `SpeechConfig`, before any process group exists.

    1. source      read a TOML file; every key gets its line                 source.py   -> tree.py
    2. load        follow `[job] extends`, merge the files                   load.py
    3. overrides   `--table.key value` on top                                overrides.py
    4. convert     the tree as dataclasses, types and names checked          convert.py  -> tables/
    5. check       ranges and contradictions                                 check.py, check_data.py
    6. budget      steps, accumulation and schedule derived from tokens      budget.py
    7. resolved    the outcome as TOML, saved with the run                   resolved.py

Steps 1 to 5 collect problems (problem.py) and raise one `ConfigError` with all of them. Nothing here imports
torch.
"""
