"""What is read: sources and their shares, rules by language, stores in object storage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TaskName = Literal["speech", "continuation", "tts", "clone", "text", "instruction"]
TranscriptVariant = Literal["native", "romanized", "code_mixed", "audio_tagged"]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data source: a part of a token store, read as one task."""

    name: str
    """Name of the source in reports and rules; unique."""

    store: str
    """Folder of the token store, s3://bucket/prefix (see [storage]), or a name of [data.stores]."""

    task: TaskName
    """How samples become prompts: speech, continuation, tts, clone, text or instruction."""

    share: float
    """Share of the run's tokens (not samples); the shares of all sources add up to 1."""

    datasets: tuple[str, ...] = ()
    """Keep only these dataset_source values of the store; empty keeps all."""

    languages: tuple[str, ...] = ()
    """Keep only these languages; empty keeps all."""

    transcript: TranscriptVariant = "native"
    """Which transcript a paired task reads."""

    stitch_gap_sec: float | None = None
    """Task speech only: join neighbouring segments of one recording and speaker, in their order and not further apart
    than this, into documents of up to seq_len tokens, which stay whole. Segments without a neighbour are left out."""

    train_on: Literal["all", "target"] = "all"
    """all: loss on every real token; target: only on what follows the prompt: codes and speech_end, or the answer."""

    max_epochs: float | None = None
    """Upper bound on how often this source's data may be repeated over the run."""


@dataclass(frozen=True, kw_only=True)
class LanguageRuleConfig:
    """How the tokens of a pool of sources are spread over languages."""

    sources: tuple[str, ...] = ()
    """Names of the sources the rule covers together; empty means the whole stage."""

    alpha: float | None = None
    """Temperature: languages share in proportion to num_tokens ** alpha. A source may have it from one rule only."""

    floor: dict[str, float] = field(default_factory=dict)
    """Least share of the pool per language; the key "*" stands for every language of the pool not named."""

    cap: dict[str, float] = field(default_factory=dict)
    """Greatest share of the pool per language; "*" as above."""

    pin: dict[str, float] = field(default_factory=dict)
    """Exact share of the pool per language."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, in which proportions and in which order."""

    phase: str = "start"
    """Label of this stretch of the run. A run that goes on with other weights, stores or sequence length needs a new
    one; its streams then go on where they stand."""

    continue_from: str = ""
    """Run folder or checkpoint (.../step-N) of an earlier stage: a fresh run reads its streams on from where they
    stood there, as long as source name, language, task and files are the same."""

    seed: int = 0
    """Seed of the data order; the order depends on it, on the plan and on the slot, never on ranks or workers."""

    too_long: Literal["drop", "split", "error"] = "drop"
    """A paired sample longer than seq_len: leave it out (counted per language), split it, or stop. Raw speech and
    text flow over the borders of packs at any length."""

    num_workers: int = 0
    """Loader processes per rank; 0 reads in the training process behind a prefetch thread."""

    num_prefetch_batches: int = 4
    """Batches read ahead."""

    stores: dict[str, str] = field(default_factory=dict)
    """Names for stores and gold packs, for `store` and `held_out`: {raw_speech = "s3://corpora/raw", gold = "gold"}.
    Where there are names, a folder is written with a /."""

    held_out: tuple[str, ...] = ()
    """Gold packs (titan-speech store gold), in folders, at s3://bucket/prefix or by a name of [data.stores]: their
    samples are never read, in whatever store they lie."""

    source: tuple[SourceConfig, ...] = ()
    """[[data.source]] tables."""

    language_rule: tuple[LanguageRuleConfig, ...] = ()
    """[[data.language_rule]] tables."""


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Object storage, for stores at s3://bucket/prefix. Credentials come from the environment or the AWS
    configuration (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE), never from this file."""

    endpoint_url: str = ""
    """Server that is not Amazon's, such as https://ACCOUNT.r2.cloudflarestorage.com; empty takes AWS_ENDPOINT_URL."""

    cache_dir: str = ""
    """Folder on a local disk of each node, shared by its processes and by runs; empty takes TITAN_SPEECH_CACHE or
    ~/.cache/titan_speech."""

    cache_gb: float = 100.0
    """Most that is kept there (1 GB = 1e9 bytes); what was not used for longest goes first."""

    num_connections: int = 16
    """Requests a process makes at once."""

    num_attempts: int = 10
    """How often a request is made before the run stops; ten take about a minute."""

    timeout_sec: float = 30.0
    """Silence of the server after which a request is made anew."""

    prefetch_packs: int = 2048
    """Packs of a rank whose shards are fetched ahead of their use; 0 fetches when they are needed."""
