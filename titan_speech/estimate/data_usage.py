"""What a run reads: tokens, epochs and hours of audio by source and language.

In: the configuration. Out: `DataUsage`, from the data plan if the stores can be opened; else what shares and tasks
alone say, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.checkpoint.choose_start import Start
from titan_speech.checkpoint.initial_load import with_continued_data
from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.order import CYCLE_SLOTS
from titan_speech.data.plan import DataPlan, PlannedStream
from titan_speech.errors import TitanSpeechError
from titan_speech.tokenization.vocabulary import CODES_PER_SEC

SPEECH_ONLY = ("speech", "continuation")
TEXT_ONLY = ("text", "instruction")


@dataclass(frozen=True)
class StreamUsage:
    """One source, in one language if the stores say which."""

    source: str
    language: str | None
    task: str
    share: float
    num_tokens: float
    """Over the whole run, padding included."""
    padding: float | None
    """Part of them that is padding; shares are of tokens without it. None: not known without the store."""
    epochs: float | None
    audio_hours: float | None
    """None: not known without the store. Without stores, only that of unpaired speech, framing counted as speech."""
    mean_document_tokens: float | None


@dataclass(frozen=True)
class DataUsage:
    """What the run reads of all its streams."""

    streams: tuple[StreamUsage, ...]
    stores_opened: bool
    reason: str
    """Why the stores were not opened; empty if they were."""
    attended_tokens: float | None
    """Tokens that a token attends to within its own document, averaged over the run; documents at their mean length."""

    @property
    def audio_hours(self) -> float | None:
        """None if that of any stream is not known."""
        hours = [stream.audio_hours for stream in self.streams]
        return None if None in hours else sum(hour for hour in hours if hour is not None)


def data_usage(config: SpeechConfig) -> DataUsage:
    """What the run reads, from its data plan; without the stores, from the shares alone."""
    try:
        plan = DataPlan.load(with_continued_data(config, Start()))
    except (TitanSpeechError, OSError) as error:
        return _without_stores(config, str(error))
    slots = plan.total_slots - config.stage.num_done * Budget.from_config(config).packs_per_step
    streams = tuple(_stream_usage(stream, plan, slots) for stream in plan.streams)
    tokens = sum(stream.num_tokens for stream in streams)
    attended = sum(_attended_tokens(stream, plan.seq_len) * stream.num_tokens for stream in streams) / tokens
    return DataUsage(streams, True, "", attended)


def _stream_usage(stream: PlannedStream, plan: DataPlan, slots: int) -> StreamUsage:
    counts = stream.stream.counts
    epochs = slots * stream.quota / CYCLE_SLOTS / counts.num_packs
    parts = [documents.part.info for documents in stream.documents]
    seconds = 0.0 if stream.task in TEXT_ONLY else sum(part.num_tokens for part in parts) / CODES_PER_SEC
    kept = counts.num_tokens / max(counts.num_usable_tokens, 1)  # the part that is not dropped as too long
    return StreamUsage(
        source=stream.source,
        language=stream.language,
        task=stream.task,
        share=stream.share,
        num_tokens=slots * plan.seq_len * stream.quota / CYCLE_SLOTS,
        padding=1 - stream.mean_fill,
        epochs=epochs,
        audio_hours=epochs * kept * seconds / 3600,
        mean_document_tokens=counts.num_tokens / counts.num_documents,
    )


def _attended_tokens(stream: StreamUsage, seq_len: int) -> float:
    length = min(stream.mean_document_tokens or seq_len, seq_len)
    return (length + 1) / 2


def _without_stores(config: SpeechConfig, reason: str) -> DataUsage:
    budget = Budget.from_config(config)
    total = budget.total_tokens - config.stage.num_done * budget.tokens_per_step
    streams = tuple(
        StreamUsage(
            source=source.name,
            language=None,
            task=source.task,
            share=source.share,
            num_tokens=source.share * total,
            padding=None,
            epochs=None,
            audio_hours=_audio_hours(source.task, source.share * total),
            mean_document_tokens=None,
        )
        for source in config.data.source
    )
    return DataUsage(streams, False, reason, None)


def _audio_hours(task: str, num_tokens: float) -> float | None:
    if task in SPEECH_ONLY:
        return num_tokens / CODES_PER_SEC / 3600
    return 0.0 if task in TEXT_ONLY else None
