"""Forward passes of the model in training without gradients, for what only looks at it.

In: batches of the loader, or prompts. Out: losses in the group sums, log-probabilities of answers, or the logits of a
next token. None of it counts as training, and the weights stay as they are. The passes go through the modules that
training compiled, so they are as fast, but a new shape of batch costs a compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.trainer import Trainer

from titan_speech.data.loader import ANSWERS, Batch
from titan_speech.data.pack_layout import IGNORE_INDEX
from titan_speech.model.lora import adapters_off
from titan_speech.training.preference_loss import PreferenceLoss


class ForwardPasses:
    """Passes over the trainer's model; every rank takes each of them at the same time."""

    def __init__(self, trainer: Trainer, mark: Callable[[str], None]) -> None:
        """Args:
        trainer: TorchTitan's, fully built.
        mark: called with what this rank does, for the report of a hang.
        """
        self._trainer, self._mark = trainer, mark

    def _prepared(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """The batch on the device, with masks; it is not counted as training."""
        trainer, (inputs, labels_BL) = self._trainer, batch
        num_tokens_seen = trainer.ntokens_seen  # the next call counts
        on_device = {name: tensor.to(trainer.device) for name, tensor in inputs.items() if name != ANSWERS}
        prepared = trainer.post_dataloading_process(on_device, labels_BL.to(trainer.device))
        trainer.ntokens_seen = num_tokens_seen
        return prepared

    @torch.no_grad()
    def losses(self, batches: Sequence[Batch]) -> None:
        """Leave the losses of the batches in the group sums; several batches are microbatches of a pipeline."""
        trainer = self._trainer
        self._mark("validation")
        prepared = [self._prepared(batch) for batch in batches]
        with trainer.train_context():
            if not trainer.parallel_dims.pp_enabled:
                for ids_BL, labels_BL, kwargs in prepared:
                    trainer.loss_fn(trainer.model_parts[0](ids_BL, **kwargs), labels_BL)
                return
            trainer.pp_schedule.eval(
                arg_mbs=[(ids_BL,) for ids_BL, _, _ in prepared] if trainer.pp_has_first_stage else None,
                kwarg_mbs=[kwargs for _, _, kwargs in prepared],
                target_mbs=[labels_BL for _, labels_BL, _ in prepared] if trainer.pp_has_last_stage else None,
                losses=[] if trainer.pp_has_last_stage else None,
            )

    @torch.no_grad()
    def reference_log_probabilities(self, batch: Batch) -> torch.Tensor:
        """Log-probabilities of the answers in a batch, shape [B, A], with the adapters switched off."""
        trainer = self._trainer
        self._mark("reference")
        ids_BL, labels_BL, kwargs = self._prepared(batch)
        with trainer.train_context(), adapters_off(trainer.model_parts[0]):
            hidden_BLD = trainer.model_parts[0](ids_BL, **kwargs)
            return cast(PreferenceLoss, trainer.loss_fn).log_probabilities(hidden_BLD, labels_BL)

    @torch.no_grad()
    def last_logits(self, ids_BL: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        """Logits of the token after position `last` of each row, the same on all tensor-parallel ranks.

        Not with pipeline or context parallelism.

        Args:
            ids_BL: token ids, one document per row; what follows `last` is not seen.
            last_B: positions.

        Returns:
            logits_BV in fp32.
        """
        trainer, tp = self._trainer, self._trainer.parallel_dims.tp
        self._mark("generation check")
        positions_BL = torch.arange(ids_BL.shape[1]).expand(ids_BL.shape).contiguous()
        ids_BL, _, kwargs = self._prepared(
            ({"input": ids_BL, "positions": positions_BL}, torch.full_like(ids_BL, IGNORE_INDEX))
        )
        lm_head = cast(ChunkedLossWrapper, trainer.loss_fn).lm_head
        assert lm_head is not None
        with trainer.train_context():
            hidden_BLD = trainer.model_parts[0](ids_BL, **kwargs)
            rows_B = torch.arange(len(last_B), device=trainer.device)
            logits_BV = lm_head(hidden_BLD[rows_B, last_B.to(trainer.device)].unsqueeze(1))[:, 0].float()
        if tp == 1:
            return logits_BV
        parts = [torch.empty_like(logits_BV) for _ in range(tp)]
        torch.distributed.all_gather(
            parts, logits_BV.contiguous(), group=trainer.parallel_dims.get_mesh("tp").get_group()
        )
        return torch.cat(parts, dim=1)
