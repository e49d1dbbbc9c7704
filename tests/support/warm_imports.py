"""What the process imports from which warm runs are forked (warm.py): all that a run of training needs."""

import torch

torch.set_num_threads(1)

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

import titan_speech.checkpoint.open_run  # noqa: E402
import titan_speech.trainer_config  # noqa: E402, F401
