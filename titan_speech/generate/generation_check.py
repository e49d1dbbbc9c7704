"""The generation check of a run: what the model being trained says to fixed prompts, measured every N steps.

In: the prompts (data/generation_prompts.py) and the logits of the model in training (training/forward_pass.py). Out:
`generation/...` metrics per check, one `generation` event in metrics.jsonl, RUN/generation/step-N.json with the sampled
ids, their sound where a codec is given, warnings, and a stop where a bound of the configuration is left. A validation
loss cannot show a stop token that is never generated, a wrong prompt or a loop; this does. Prompts are dealt to the
data-parallel ranks; all ranks take the same number of forward passes of one shape, so FSDP stays in step, and
tensor-parallel ranks sample the same token from the same logits. There is no key-value cache: a token costs a forward
pass over prompt and limit. Four prompts of 24 tokens take 4.5 s with the debug model on one CPU core. A check ends
early when every prompt has stopped, and is given up on all ranks where it takes one of them longer than `max_sec`: what
was cut short has no honest measure. Random numbers are those of the check alone, by prompt and step: training is bit
for bit what it is without.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torchtitan.observability import structured_logger

from titan_speech.codec.wav import read_audio
from titan_speech.config.schema_training import GenerationCheckConfig
from titan_speech.data.generation_prompts import GenerationPrompt
from titan_speech.errors import BoundsLeftError
from titan_speech.generate.generation_check_sound import GENERATION_FOLDER, CheckSound, as_record
from titan_speech.generate.measures import SampleMeasures, check_bounds, means, means_by_group, measure
from titan_speech.generate.sound_measures import HEARD_NAMES, HeardMeasures, sound_means
from titan_speech.tokenization.prompt_template import Grammar, Task
from titan_speech.training.callback import RunCallback, RunEnd
from titan_speech.training.sinks.sink import Sample
from titan_speech.utils.files import write_atomically
from titan_speech.utils.text_table import counted

GENERATION_EVENT = "generation"
SHAPE_MULTIPLE = 128
"""Lengths are multiples of a block of flex attention."""

ASK_EVERY = 16
"""Tokens between questions whether all ranks are done, or one has no time left."""

LastLogits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(ids_BL, last_B) -> logits_BV in fp32 of the token after position `last` of each row; arguments are on the CPU."""

Log = Callable[[str, int, Mapping[str, float], Sequence[str], float], None]
"""(event, step, metrics, lines for the console, seconds)"""

Flag = Callable[[str, int, str], None]
"""(what, step, text); called on every rank"""

Show = Callable[[str, int, Sequence[Sample]], None]
"""(step, samples)"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranks:
    """This rank among the data-parallel ones."""

    dp_rank: int
    dp_degree: int
    device: torch.device


class GenerationCheck(RunCallback):
    """Generates from the prompts of this rank when a check is due."""

    def __init__(
        self,
        config: GenerationCheckConfig,
        prompts: Sequence[GenerationPrompt],
        grammar: Grammar,
        last_logits: LastLogits,
        log: Log,
        flag: Flag,
        show: Show,
        ranks: Ranks,
        run_folder: Path,
        num_steps: int,
        sound: CheckSound | None = None,
    ) -> None:
        """Args:
        config: of the check.
        prompts: of the whole run.
        grammar: of the run.
        last_logits: the model.
        log: where metrics go.
        flag: called where a bound of `warn` or `warn_below` is left.
        show: takes the event, the step and the samples, on rank 0, before the event is logged.
        ranks: this rank among the data-parallel ones.
        run_folder: where sampled ids are written.
        num_steps: of the run; a check comes after the last one.
        sound: decodes the samples, on rank 0; None: ids only.
        """
        check_bounds(config)
        self.config, self.prompts, self.grammar, self.last_logits = config, prompts, grammar, last_logits
        self.log, self.flag, self.show = log, flag, show
        self.ranks, self.num_steps, self.sound = ranks, num_steps, sound
        self.folder = run_folder / GENERATION_FOLDER
        self.has_sound = bool(config.codec)
        self._has_warned = False
        self.within_step: int | None = None
        """The last step whose check kept the bounds of `stop` and `stop_below`; None before the first step boundary."""
        longest = max(len(prompt.ids_T) for prompt in prompts) + config.max_codes + 1
        self.num_rows = -(-len(prompts) // ranks.dp_degree)
        self.num_positions = -(-longest // SHAPE_MULTIPLE) * SHAPE_MULTIPLE

    def step_boundary(self, step: int) -> None:
        """Check if one is due; a resumed run repeats that of the step it loaded.

        Args:
            step: steps done.

        Raises:
            BoundsLeftError: a bound of `stop` or `stop_below` is left; raised on all ranks.
        """
        if self.within_step is None:
            self.within_step = self._checked_before(step)
        if step % self.config.every_steps and step != self.num_steps:
            return
        began = time.perf_counter()
        with structured_logger.log_trace_span("generation_check"):
            generated = self._generate(step)
            if generated is None:
                self._give_up(step, time.perf_counter() - began)
                return
            sampled = self._gathered(generated)
            samples = self._measures(sampled)
            sounds = self._sounds(step, sampled)
        metrics = self._metrics(samples, sounds, time.perf_counter() - began)
        if torch.distributed.get_rank() == 0:
            self._write(step, samples, sampled, sounds)
            self.show(GENERATION_EVENT, step, self._shown(step, samples, sounds))
        self.log(GENERATION_EVENT, step, metrics, summary(step, metrics, len(self.prompts)), metrics["generation/sec"])
        if step < self.config.bounds_from_step:
            return
        config = self.config
        warnings = _broken(config.warn, config.warn_below, metrics)
        failures = _broken(config.stop, config.stop_below, metrics)
        if warnings:
            self.flag("the generation check", step, f"it left its bounds: {'; '.join(warnings)}")
        if failures:
            raise BoundsLeftError(
                f"the generation check at step {step:,} left its bounds: {'; '.join(failures)}. Compare the prompt "
                f"template and the labels (titan-speech data show), see what it generated in "
                f"{self.folder}/step-{step}.json, and lower optimizer.lr; generation_check.stop and stop_below have "
                "the bounds.",
                found="; ".join(failures),
                step=step,
                within_step=self.within_step,
            )
        self.within_step = step

    def finish(self, end: RunEnd) -> None:
        """End the process that compares voices."""
        if self.sound is not None:
            self.sound.close()

    def _checked_before(self, step: int) -> int:
        """The step of the last check before this start; 0 without one, or if another node has its file."""
        numbers = (path.stem.removeprefix("step-") for path in self.folder.glob("step-*.json"))
        return max((int(one) for one in numbers if one.isdecimal() and int(one) < step), default=0)

    def _give_up(self, step: int, duration_sec: float) -> None:
        """Say that there are no measures of this step, and keep its time out of the throughput."""
        if torch.distributed.get_rank() == 0:
            logger.warning(
                f"The generation check at step {step:,} was given up after {duration_sec:.0f} s "
                f"(generation_check.max_sec = {self.config.max_sec:g}) and measured nothing. Training continues; lower "
                "generation_check.max_codes or num_prompts, or allow it more time"
            )
        self.log(GENERATION_EVENT, step, {"generation/sec": duration_sec}, [], duration_sec)

    def _generate(self, step: int) -> dict[int, list[int]] | None:
        """The ids sampled after each of this rank's prompts, by the prompt's number; None on every rank if it took one
        of them longer than `max_sec`."""
        began = time.monotonic()
        numbers = list(range(self.ranks.dp_rank, len(self.prompts), self.ranks.dp_degree))
        ids_BL = torch.full((self.num_rows, self.num_positions), self.grammar.vocabulary.pad_id)
        last_B = torch.zeros(self.num_rows, dtype=torch.long)
        for row, number in enumerate(numbers):
            prefix_T = torch.from_numpy(self.prompts[number].ids_T)
            ids_BL[row, : len(prefix_T)] = prefix_T
            last_B[row] = len(prefix_T) - 1
        stops = [self.grammar.stop_id(Task(self.prompts[number].task)) for number in numbers]
        generators = [torch.Generator().manual_seed(step * len(self.prompts) + number) for number in numbers]
        sampled: dict[int, list[int]] = {number: [] for number in numbers}
        is_done = [False] * len(numbers)
        for token in range(self.config.max_codes + 1):
            if token % ASK_EVERY == 0:
                in_time = time.monotonic() - began <= self.config.max_sec
                is_everyone_done, is_everyone_in_time = self._on_all_ranks(all(is_done), in_time)
                if is_everyone_done:
                    break
                if not is_everyone_in_time:
                    return None
            logits_BV = self.last_logits(ids_BL, last_B)
            top_logits_BK, top_ids_BK = (t.cpu() for t in logits_BV.topk(min(self.config.top_k, logits_BV.shape[-1])))
            for row, number in enumerate(numbers):
                if is_done[row]:
                    continue
                next_id = self._sample(top_logits_BK[row], top_ids_BK[row], generators[row])
                sampled[number].append(next_id)
                last_B[row] += 1
                ids_BL[row, last_B[row]] = next_id
                is_done[row] = next_id == stops[row] or len(sampled[number]) > self.config.max_codes
        return sampled

    def _sample(self, logits_K: torch.Tensor, ids_K: torch.Tensor, generator: torch.Generator) -> int:
        if self.config.temperature == 0:
            return int(ids_K[0])
        weights_K = torch.softmax(logits_K / self.config.temperature, dim=-1)
        return int(ids_K[torch.multinomial(weights_K, 1, generator=generator)])

    def _on_all_ranks(self, *mine: bool) -> list[bool]:
        """Of each answer, whether every rank gives it."""
        flags = torch.tensor(mine, dtype=torch.float32, device=self.ranks.device)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MIN)
        return [bool(flag) for flag in flags.tolist()]

    def _gathered(self, sampled: dict[int, list[int]]) -> list[list[int]]:
        """The sampled ids of all prompts, on every rank."""
        table = torch.full((len(self.prompts), self.config.max_codes + 1), -1, device=self.ranks.device)
        for number, ids in sampled.items():
            table[number, : len(ids)] = torch.tensor(ids, device=self.ranks.device)
        torch.distributed.all_reduce(table, torch.distributed.ReduceOp.MAX)
        return [row[row >= 0].tolist() for row in table.cpu()]

    def _measures(self, sampled: Sequence[Sequence[int]]) -> list[SampleMeasures]:
        return [
            measure(
                np.array(ids, np.int64),
                stop_id=self.grammar.stop_id(Task(prompt.task)),
                vocabulary=self.grammar.vocabulary,
                num_target_codes=prompt.num_target_codes,
            )
            for prompt, ids in zip(self.prompts, sampled, strict=True)
        ]

    def _sounds(self, step: int, sampled: Sequence[Sequence[int]]) -> list[HeardMeasures | None]:
        """The measures of each sample's sound, the same on every rank; None for a sample without sound."""
        found = list[HeardMeasures | None]()
        if self.sound is not None:
            ids = (np.array(one, np.int64) for one in sampled)
            is_code = self.grammar.vocabulary.is_code
            found = self.sound.decode(
                step, self.prompts, [self.grammar.vocabulary.ids_to_codes(ids_T[is_code(ids_T)]) for ids_T in ids]
            )
        if not self.has_sound:
            return [None] * len(sampled)
        table = torch.full((len(sampled), len(HEARD_NAMES)), -1.0, dtype=torch.float64)
        for row, sound in enumerate(found):
            if sound is not None:
                table[row] = torch.tensor([getattr(sound, name) for name in HEARD_NAMES], dtype=torch.float64)
        table = table.to(self.ranks.device)
        torch.distributed.broadcast(table, 0)
        return [None if row[0] < 0 else HeardMeasures(*row) for row in table.tolist()]

    def _metrics(
        self, samples: Sequence[SampleMeasures], sounds: Sequence[HeardMeasures | None], duration_sec: float
    ) -> dict[str, float]:
        """`generation/MEASURE` over all prompts, `generation/language/L/MEASURE`, and the seconds it took."""
        found = {f"generation/{name}": value for name, value in means(samples).items()}
        heard = [sound for sound in sounds if sound is not None]
        found |= {f"generation/{name}": value for name, value in sound_means(heard).items()}
        languages = zip((prompt.language for prompt in self.prompts), samples, strict=True)
        for language, values in means_by_group(languages).items():
            found |= {f"generation/language/{language}/{name}": value for name, value in values.items()}
        return found | {"generation/sec": duration_sec}

    def _write(
        self,
        step: int,
        samples: Sequence[SampleMeasures],
        sampled: Sequence[Sequence[int]],
        sounds: Sequence[HeardMeasures | None],
    ) -> None:
        """Prompts, sampled ids and measures; a folder that cannot be written costs a warning."""
        records = [
            {
                "sample_id": prompt.sample_id,
                "task": prompt.task,
                "language": prompt.language,
                "text": prompt.text,
                "num_target_codes": prompt.num_target_codes,
                "prompt_ids": prompt.ids_T.tolist(),
                "sampled_ids": list(ids),
                **asdict(measures),
                **as_record(sound),
            }
            for prompt, measures, ids, sound in zip(self.prompts, samples, sampled, sounds, strict=True)
        ]
        try:
            write_atomically(self.folder / f"step-{step}.json", json.dumps(records) + "\n")
        except OSError as error:
            if not self._has_warned:
                logger.warning(
                    f"{self.folder} cannot be written: {error}. Training continues; ids of further checks that cannot "
                    "be written are not reported."
                )
            self._has_warned = True

    def _shown(
        self, step: int, samples: Sequence[SampleMeasures], sounds: Sequence[HeardMeasures | None]
    ) -> list[Sample]:
        """For people: the text and the measures of each prompt, and what was heard."""
        shown = []
        for number, (prompt, measures, sound) in enumerate(zip(self.prompts, samples, sounds, strict=True)):
            columns = {"language": prompt.language, "task": prompt.task, "text": prompt.text, **asdict(measures)}
            audio_T, sample_rate = (None, 0)
            if sound is not None and self.sound is not None:
                sample_rate = self.sound.codec.sample_rate
                audio_T = read_audio(self.sound.path(step, number), sample_rate)
            shown.append(Sample(f"{number}-{prompt.sample_id}", columns, audio_T, sample_rate))
        return shown


def _broken(upper: Mapping[str, float], lower: Mapping[str, float], metrics: Mapping[str, float]) -> list[str]:
    """The bounds that a check left, as text; a measure that no sample has is in its bounds."""
    values = {name.removeprefix("generation/"): value for name, value in metrics.items()}
    above = [(name, "above", bound) for name, bound in upper.items() if values.get(name, bound) > bound]
    below = [(name, "below", bound) for name, bound in lower.items() if values.get(name, bound) < bound]
    return [f"{name} {values[name]:.3g} is {side} {bound:g}" for name, side, bound in (*above, *below)]


def summary(step: int, metrics: Mapping[str, float], num_prompts: int) -> list[str]:
    """Two lines for the console."""
    return [
        f"generation at step {step:,}: {counted(num_prompts, 'prompt')}, "
        f"{metrics['generation/stop_failure']:.0%} without a stop, "
        f"length ratio {metrics['generation/length_ratio']:.2f} ({metrics['generation/sec']:.1f} s)",
        f"    loops {metrics['generation/loop']:.0%}, repeats {metrics['generation/repeats']:.1%}, invalid tokens "
        f"{metrics['generation/invalid_tokens']:.1%}, entropy {metrics['generation/code_entropy_bits']:.1f} bits",
    ]
