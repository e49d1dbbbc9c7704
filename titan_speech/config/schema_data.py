"""What a run reads: data sources and their shares, rules by language, held-out sets, object storage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from titan_speech.config.fields import Bounds

TaskName = Literal["speech", "continuation", "tts", "clone", "text", "instruction", "preference"]
TranscriptVariant = Literal["native", "romanized", "code_mixed", "audio_tagged"]

OTHER_LANGUAGES = "*"
"""In floor and cap: every language of the pool that the mapping does not name and no pin fixes."""

SHARE_TOLERANCE = 1e-6
"""Tolerance of shares, of the run's tokens: 1/15 pack of a cycle."""

PoolShare = Annotated[float, Bounds(at_least=0, at_most=1, expected="a share of the pool from 0 to 1")]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data source: a part of a token store, read as one task."""

    name: str
    """Name of the source in reports and language rules; unique."""

    store: str
    """Folder of the token store, s3://bucket/prefix (see [storage]), or a name of [data.stores]."""

    task: TaskName
    """How samples become training documents: speech, continuation, tts, clone, text, instruction, or preference (the
    samples X/chosen and X/rejected, two answers to one prompt, in the voice of X/voice where the part has voices; needs
    [preference])."""

    share: Annotated[float, Bounds(above=0, at_most=1, expected="a share above 0 and at most 1")]
    """Share of the run's tokens (not of its samples); the shares of all sources add up to 1."""

    datasets: tuple[str, ...] = ()
    """Read only these dataset_source values of the store; empty reads all."""

    languages: tuple[str, ...] = ()
    """Read only these languages; empty reads all."""

    where: str = ""
    """Read only samples of speech for which this holds, such as "dnsmos >= 3.2 and cps < 25": scores of titan-speech
    store score, duration_sec, cps (characters per second); < <= > >= == != and or not ( ). A missing score excludes."""

    transcript: TranscriptVariant = "native"
    """Transcript variant that a paired task reads."""

    augment: dict[str, PoolShare] = field(default_factory=dict)
    """Tasks tts and clone: share of the samples that are read with another transcript variant where they have it, such
    as {romanized = 0.2, code_mixed = 0.1}. A sample has the same variant in every epoch."""

    stitch_gap_sec: Annotated[float | None, Bounds(at_least=0, expected="seconds, 0 or above")] = None
    """Task speech only: join consecutive segments of one recording and speaker, at most this many seconds apart, into
    documents of up to seq_len tokens, which are never split. Segments without a neighbor are left out."""

    train_on: Literal["all", "target"] = "all"
    """Loss masking. all: loss on every token but padding; target: loss only on what follows the prompt (codes and
    speech_end, or the answer)."""

    max_epochs: Annotated[float | None, Bounds(above=0)] = None
    """Upper limit on the epochs over this source's data during the run."""


@dataclass(frozen=True, kw_only=True)
class LanguageRuleConfig:
    """How the tokens of a pool of sources are distributed over languages."""

    sources: tuple[str, ...] = ()
    """Names of the sources that form the pool; empty: all sources of the stage."""

    alpha: Annotated[float | None, Bounds(at_least=0, expected="0 (equal) or above; 1 is in proportion")] = None
    """Sampling temperature: languages are weighted by num_tokens ** alpha. At most one rule may set it for a source."""

    floor: dict[str, PoolShare] = field(default_factory=dict)
    """Minimum share of the pool per language; the key "*" stands for every language of the pool that is not named."""

    cap: dict[str, PoolShare] = field(default_factory=dict)
    """Maximum share of the pool per language; "*" as in floor."""

    pin: dict[str, PoolShare] = field(default_factory=dict)
    """Exact share of the pool per language."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, in which proportions and in which order."""

    phase: str = "start"
    """Label of this phase of the run. A run that continues with other shares, stores or sequence length needs a new
    label; its data streams then continue at their read positions."""

    continue_from: str = ""
    """Run folder or checkpoint (.../step-N) of an earlier stage: a new run continues its data streams at the read
    positions of that stage, for every stream with the same source name, language, task and files."""

    seed: Annotated[int, Bounds(at_least=0)] = 0
    """Seed of the data order. The order depends on it, on the data plan and on the slot, never on the number of ranks
    or loader workers."""

    too_long: Literal["drop", "split", "error"] = "drop"
    """What is done with a paired sample longer than seq_len: drop it (counted per language), split it, or stop with an
    error. Raw speech and text of any length continue in the next pack."""

    num_workers: Annotated[int, Bounds(at_least=0)] = 0
    """Dataloader worker processes per rank; 0: a prefetch thread in the training process."""

    num_prefetch_batches: Annotated[int, Bounds(at_least=1)] = 4
    """Batches loaded ahead."""

    stores: dict[str, str] = field(default_factory=dict)
    """Names of token stores and held-out sets, for `store` and `held_out`: {raw_speech = "s3://corpora/raw", gold =
    "gold"}. Where names are defined, a folder is written with a /."""

    held_out: tuple[str, ...] = ()
    """Held-out sets (titan-speech store held-out): folders, s3://bucket/prefix or names of [data.stores]. Their samples
    are never trained on, whichever store contains them."""

    source: tuple[SourceConfig, ...] = ()
    """[[data.source]] tables."""

    language_rule: tuple[LanguageRuleConfig, ...] = ()
    """[[data.language_rule]] tables."""


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Object storage, for stores at s3://bucket/prefix. Credentials come from the environment or the AWS
    configuration (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE), never from this file."""

    endpoint_url: str = ""
    """Endpoint other than Amazon's, such as https://ACCOUNT.r2.cloudflarestorage.com; empty: AWS_ENDPOINT_URL."""

    cache_dir: str = ""
    """Cache folder on a local disk of each node, shared by its processes and by runs; empty: TITAN_SPEECH_CACHE or
    ~/.cache/titan_speech."""

    cache_gb: Annotated[float, Bounds(above=0)] = 100.0
    """Maximum size of the cache (1 GB = 1e9 bytes); the least recently used files are evicted first."""

    num_connections: Annotated[int, Bounds(at_least=1, at_most=256)] = 16
    """Concurrent requests per process."""

    num_attempts: Annotated[int, Bounds(at_least=1)] = 10
    """Attempts per request before the run stops; ten take about a minute."""

    timeout_sec: Annotated[float, Bounds(above=0)] = 30.0
    """Seconds without a response after which a request is retried."""

    prefetch_packs: Annotated[int, Bounds(at_least=0)] = 2048
    """Packs per rank whose shards are downloaded ahead of use; 0: download on demand."""
