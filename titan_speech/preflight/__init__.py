"""Checks of a run before any process group exists: all problems at once, each with its place and a way out.

    with the configuration alone                   config_checks.py     bounds, batch, schedule, stage, checkpoints
      (`load_config`: every command)                 |  data_checks.py       sources, language rules, addresses
                                                     |  compatibility.py     features that exclude or need each other
                                                     |  lora_checks.py       what [lora] adapts and starts from
                                                     |  preference_checks.py what [preference] reads and compares with
                                                 |  parallel_degrees.py  sizes that the degrees must divide
    with the world size, where it is known         parallel_degrees.py  the degrees and the number of processes
    with this machine (a run, `config check        machine_checks.py    folders, CUDA, float8; sizes of model.initial
      --here`)

Checks of the configuration import no torch. A check yields findings (`config/problem.py`), which name the keys it read.
scripts/parallelism_page.py prints docs/parallelism.md from compatibility.py and the measured parity of layouts.
"""
