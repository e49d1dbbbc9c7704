"""What a run composes: layouts of ranks, recomputation, compilation, float8, and what goes together.

    1. features   what a run may have switched on, and how to tell                features.py
    2. support    which pairs exclude or need each other, and why                 support.py
    3. sizes      heads, layers, lengths and batches that degrees must divide     sizes.py
    4. pipeline   how a pipeline shares out layers, and how long its ranks wait   pipeline.py
    5. start      what asks for CUDA, or for a newer device                       start.py
    6. settings   our tables as TorchTitan's                                      settings.py, float8.py

docs/parallelism.md is printed from 1, 2 and benchmarks/results/parallel_matrix.json by scripts/parallelism_page.py.
Steps 1 to 4 import no torch: they run while a configuration is checked, before anything is started.
"""
