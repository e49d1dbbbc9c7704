"""A debug model on 32 samples of the run's own data: what overfits, resumes and stops works end to end.

In: a checked configuration. Out: in a temporary folder a store of the 32 shortest samples that its first source of task
tts or clone reads, a configuration of the debug model with the run's tokenizer, and a run of it in a process of its
own. A loss that does not fall to nearly 0 means that data, labels or the loss are wrong, whatever the size of the real
model. The run is stopped when its time is over; the same command then resumes it, and a sample is generated from its
checkpoint.

A large vocabulary makes its steps longer, so the time decides how far it comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titan_speech.checkpoint.commit import committed_checkpoints
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import SourceConfig
from titan_speech.data.sources import parts_of_source
from titan_speech.doctor.outcome import DoctorOutcome, Verdict
from titan_speech.doctor.training_process import train
from titan_speech.errors import DataError
from titan_speech.exit_codes import EXIT_DONE, EXIT_RESTART
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.training.jsonl_log import read_flags, read_steps
from titan_speech.utils.text_table import counted

NUM_SAMPLES = 32
MIN_CODES = 30
"""0.6 s."""
STEPS = 120
MORE_STEPS = 2
"""Of the resumed run."""
GOOD_LOSS, FALLING_SHARE = 1.0, 0.6
"""Nats per token; a last loss below this share of the first one was still falling."""
TIME_OVER = "too little time; give more --minutes"
PAIRED_TASKS = ("tts", "clone")


@dataclass(frozen=True)
class SmallRun:
    """The folder of a small run and what it was made of."""

    folder: Path
    config: Path
    text: str
    """Of the shortest sample."""
    num_codes: int
    """Of that sample."""
    tokens_per_step: int


def prepare(config: SpeechConfig, folder: Path) -> SmallRun:
    """Write the store and the configuration.

    Raises:
        DataError: no source of the run reads transcribed speech, or its store lacks what the source names.
    """
    source = next((source for source in config.data.source if source.task in PAIRED_TASKS), None)
    if source is None:
        raise DataError("no source of this run has the task tts or clone: there is no prompt to overfit")
    tokenizer = TextTokenizer.load(config.tokenizer.path)
    samples = _shortest(config, source)
    longest = max(len(codes) + len(tokenizer.encode(text)) for codes, text, _ in samples) + 16
    seq_len = max(128, 1 << (longest - 1).bit_length())
    total = sum(len(codes) + len(tokenizer.encode(text)) + 8 for codes, text, _ in samples)
    packs = max(1, min(8, round(total / 2 / seq_len)))
    with StoreWriter(
        folder / "store",
        name="doctor",
        codec=open_store(source.store, config.storage).manifest.codec,
        tokenizer=tokenizer,
        normalization_version="1",
        licence="as in the stores of the run",
    ) as writer:
        for number, (codes, text, _) in enumerate(samples):
            info = SampleInfo(sample_id=f"sample-{number}", dataset_source="doctor", language=samples[0][2])
            writer.add_speech(info, codes, {"native": text})
    path = folder / "doctor.toml"
    path.write_text(_toml(config, folder, seq_len, packs), encoding="utf-8")
    return SmallRun(folder / "run", path, samples[0][1], len(samples[0][0]), packs * seq_len)


def _shortest(config: SpeechConfig, source: SourceConfig) -> list[tuple[np.ndarray, str, str]]:
    """Codes, transcript and language of the shortest samples that a source reads and whose transcripts differ; they
    are stored as one language, which alone may not fill a pack."""
    store = open_store(source.store, config.storage)
    candidates = []
    for part in parts_of_source(source, store):
        lengths_N = part.code_len_N  # 0 where `where` excludes the sample
        order = np.argsort(lengths_N, kind="stable")
        order = order[lengths_N[order] >= MIN_CODES][: 4 * NUM_SAMPLES]
        candidates += [(int(lengths_N[i]), number, part, int(i)) for number, i in enumerate(order)]
    found: dict[str, tuple[np.ndarray, str, str]] = {}
    for _, _, part, i in sorted(candidates, key=lambda one: one[:2]):
        text = getattr(part.row(i), f"transcript_{source.transcript}")
        if text and text not in found:
            found[text] = (np.array(part.codes(i)), text, part.language)
        if len(found) == NUM_SAMPLES:
            break
    if len(found) < 4:
        raise DataError(
            f"source {source.name} reads {counted(len(found), 'transcribed sample')} of {MIN_CODES} codes or more of "
            f"{source.store}, expected 4 or more to overfit: widen its where, datasets or languages"
        )
    return list(found.values())


def _toml(config: SpeechConfig, folder: Path, seq_len: int, packs: int) -> str:
    from titan_speech.config.toml_text import toml_value

    values = {
        "run": folder / "run",
        "store": folder / "store",
        "tokenizer": Path(config.tokenizer.path).absolute(),
        "family": config.model.family,
    }
    quoted = {name: toml_value(str(value)) for name, value in values.items()}
    return f"""
[job]
description = "doctor: {NUM_SAMPLES} samples, debug model"
dump_folder = {quoted["run"]}
[model]
family = {quoted["family"]}
flavor = "debug"
[tokenizer]
path = {quoted["tokenizer"]}
[training]
seq_len = {seq_len}
local_batch_packs = {packs}
global_batch_tokens = {packs * seq_len}
target_tokens = {STEPS * packs * seq_len}
dtype = "float32"
mixed_precision_param = "float32"
[optimizer]
lr = 4e-3
weight_decay = 0.0
[lr_scheduler]
warmup_ratio = 0.05
end_lr = 4e-4
[loss]
num_chunks = 4
[activation_checkpoint]
kind = "none"
[checkpoint]
max_rms_growth = 0  # weights of a run at this rate grow more than those of a real one
cadence = [{{every = {STEPS}}}]
[metrics]
log_every_steps = 1
group_table_every = 0
[[data.source]]
name = "tts"
store = {quoted["store"]}
task = "tts"
share = 1.0
"""


def overfit(small: SmallRun, within_sec: float) -> DoctorOutcome:
    """Train until the loss is near 0 or the time is over; the run is then stopped and saved."""
    trained = train([*_words(small)], within_sec)
    losses = _losses(small)
    if trained.is_late and len(losses) < 2:
        return DoctorOutcome("overfit", Verdict.SKIPPED, counted(len(losses), "step"), TIME_OVER)
    if trained.code not in (EXIT_DONE, EXIT_RESTART) or len(losses) < 2:
        advice = f"the run of the debug model ended with code {trained.code}:\n{trained.last_lines}"
        return DoctorOutcome("overfit", Verdict.FAIL, counted(len(losses), "step"), advice)
    first, last = losses[min(losses)], losses[max(losses)]
    text = f"{NUM_SAMPLES:,} samples, debug model: loss {first:.2f} to {last:.3f} in {max(losses):,} steps"
    if last < GOOD_LOSS:
        flags = [f"flagged at {flag}" for flag in read_flags(small.folder / "metrics.jsonl")]
        return DoctorOutcome("overfit", Verdict.WARN if flags else Verdict.PASS, text, "\n".join(flags))
    if trained.is_late and last < FALLING_SHARE * first:
        return DoctorOutcome("overfit", Verdict.WARN, text, "still falling when its time was over; give more --minutes")
    advice = (
        "the loss of 32 samples must fall to nearly 0: look at titan-speech data show for prompts and labels, and at "
        "the transcripts of the store"
    )
    if trained.is_late and max(losses) < STEPS // 4 and math.isfinite(last):
        return DoctorOutcome("overfit", Verdict.SKIPPED, text, TIME_OVER)
    return DoctorOutcome("overfit", Verdict.FAIL, text, advice)


def resume(small: SmallRun, within_sec: float) -> DoctorOutcome:
    """The same command resumes from the checkpoint, and the loss continues where it was."""
    before = _losses(small)
    step = max(before)
    target = (step + MORE_STEPS) * small.tokens_per_step
    trained = train([*_words(small), "--training.target_tokens", str(target)], within_sec)
    after = _losses(small)
    if trained.is_late and trained.code != EXIT_DONE:
        return DoctorOutcome("save and resume", Verdict.SKIPPED, f"resumed from step {step}", TIME_OVER)
    if trained.code != EXIT_DONE or max(after) != step + MORE_STEPS:
        advice = f"the run did not resume from step {step} (code {trained.code}):\n{trained.last_lines}"
        return DoctorOutcome("save and resume", Verdict.FAIL, f"resumed from step {step}", advice)
    usual, found = before[step], after[step + 1]
    text = f"saved at step {step}, resumed: loss {usual:.3f}, then {found:.3f}"
    if not found <= 1.5 * usual + 0.5:
        advice = "the loss jumped: titan-speech checkpoint verify, and enough space and memory on this machine?"
        return DoctorOutcome("save and resume", Verdict.FAIL, text, advice)
    return DoctorOutcome("save and resume", Verdict.PASS, text)


def generate(small: SmallRun) -> DoctorOutcome:
    """The text of a sample is continued with codes, and stops."""
    from titan_speech.generate.load import load_run
    from titan_speech.generate.sampling import Decoding, generate_codes, prompt_parts

    trained = load_run(small.folder)
    task, parts = prompt_parts(trained, small.text)
    decoding = Decoding(temperature=0.0, max_codes=2 * small.num_codes + 20)
    generated = generate_codes(trained.model, trained.grammar, task, parts, decoding)
    losses = _losses(small)
    return judge_speech(len(generated.codes_F), small.num_codes, generated.stopped, losses[max(losses)])


def judge_speech(num_codes: int, expected: int, stopped: bool, loss: float) -> DoctorOutcome:
    """Judge what the overfitted model generated; a model that has not learned its samples is not judged.

    Args:
        num_codes: generated.
        expected: codes of the sample.
        stopped: whether it generated the stop token.
        loss: of its last step.
    """
    text = f"{counted(num_codes, 'code')} for a sample of {expected}, {'stopped' if stopped else 'not stopped'}"
    if not loss < GOOD_LOSS:
        reason = f"not judged at a loss of {loss:.2f}: the overfit comes first"
        return DoctorOutcome("generation", Verdict.SKIPPED, text, reason)
    if stopped and num_codes:
        return DoctorOutcome("generation", Verdict.PASS, text)
    advice = "an overfitted model must generate codes and stop: is the stop token trained? See titan-speech data show"
    return DoctorOutcome("generation", Verdict.FAIL, text, advice)


def _losses(small: SmallRun) -> dict[int, float]:
    """By step; NaN where the step was skipped, since its loss was not finite."""
    found = {step: record.get("loss") for step, record in read_steps(small.folder / "metrics.jsonl").items()}
    return {step: math.nan if loss is None else loss for step, loss in found.items()}


def has_checkpoint(small: SmallRun) -> bool:
    """Whether there is something to resume."""
    return bool(committed_checkpoints(small.folder / "checkpoint"))


def _words(small: SmallRun) -> list[str]:
    return ["-m", "titan_speech.train", "--job.config_file", str(small.config)]
