"""The model of a configuration of ours as Hugging Face transformers builds it, with fresh weights.

In: a configuration. Out: a LlamaForCausalLM or Qwen3ForCausalLM of the same sizes and vocabulary rows. On a CPU the
process keeps freed memory as our runs do (titan_speech/utils/cpu.py), which is no part of either trainer.
"""

from __future__ import annotations

from typing import Any

from titan_speech.config.schema import SpeechConfig
from titan_speech.estimate.offline import run_shape, run_vocabulary
from titan_speech.hf.config_json import config_from_shape


def fresh_model(config: SpeechConfig) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not torch.cuda.is_available():
        from titan_speech.utils import cpu

        cpu._keep_freed_memory()
    vocabulary = run_vocabulary(config).vocabulary
    content = config_from_shape(
        run_shape(config)[0],
        vocabulary.num_rows,
        bos_id=vocabulary.bos_id,
        eos_id=vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
    )
    torch.manual_seed(config.job.seed)
    kind = content.pop("model_type")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **content), attn_implementation="sdpa")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").train()
