"""The pre-flight of a run as one command: `titan-speech doctor CONFIG`.

    outcome.py      what a check found: pass, warn, fail or skipped, and what to do
    checks.py       the checks that train nothing: all that a run reads opens and fits together, audit, estimate
    small_run.py    a debug model on 32 samples of the run's own data: overfit, save and resume, one generation
    training_process.py   a training in a process of its own, with a time limit
    throughput.py   ten steps of the run itself
    examination.py  all of them in order, within the time there is

Every check is made of what exists: the commands `config check`, `store verify`, `store audit`, `estimate`, `train` and
`sample` do the same one by one.
"""
