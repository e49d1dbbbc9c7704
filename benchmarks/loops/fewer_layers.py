"""This trainer with a published width and fewer layers, as BENCHMARK_LAYERS says; 0: all of them.

In: words of a configuration. Out: a run. A layer takes the same time wherever it is, so two runs of few layers give the
time of all, where the memory of one GPU would not hold them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from titan_speech.model.backbones import FLAVORS

if __name__ == "__main__":
    if num_layers := int(os.environ.get("BENCHMARK_LAYERS", "0")):
        for flavors in FLAVORS.values():
            for name, shape in flavors.items():
                flavors[name] = replace(shape, num_layers=num_layers)
    from titan_speech.train import main

    sys.exit(main())
