"""The TOML tables, one dataclass each; the text under a field is its `--help`.

Table and field names follow TorchTitan's where a person would write them. What a run derives from them (steps,
accumulation, schedule) is computed in `titan_speech.config.budget`, never written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TaskName = Literal["speech", "continuation", "tts", "clone", "text", "instruction"]
TranscriptVariant = Literal["native", "romanized", "code_mixed", "audio_tagged"]


@dataclass(frozen=True, kw_only=True)
class JobTable:
    """What the run is called and where it writes."""

    description: str = ""
    """One line that says what this run is; saved with it."""

    dump_folder: str = "outputs/run"
    """Run folder, relative to the working directory: checkpoints, metrics.jsonl, resolved configuration."""

    seed: int = 0
    """Seed of the weight initialisation (data order has its own: data.seed)."""


@dataclass(frozen=True, kw_only=True)
class StageTable:
    """What a stage takes over from the one before. It counts only while the run has no checkpoint of its own: a crash
    inside the stage resumes the stage."""

    from_: str = ""
    """Run folder of the stage before (its newest complete checkpoint), or one of its checkpoints (.../step-N); either
    may be at s3:// (its upload.to). Weights are taken over, the schedule starts anew. Empty: the first stage."""

    optimizer: bool = False
    """Take over the moments of AdamW too; learning rate, betas and weight decay are always this stage's."""

    continue_data: bool = True
    """Read each data stream on from where the stage before left it (as data.continue_from, which goes before it)."""

    strict: bool = False
    """Stop, and do not only warn, if the peak learning rate is above the one the stage before ended with."""


@dataclass(frozen=True, kw_only=True)
class ModelTable:
    """The backbone, with its vocabulary grown by the speech tokens."""

    family: Literal["llama3", "qwen3"] = "llama3"
    """Backbone family."""

    flavor: str = "debug"
    """Size within the family: debug, debug_untied, 0.6B, 1B, 1.7B, 8B (those the family has), or initial: the sizes of
    model.initial."""

    initial: str = ""
    """Hugging Face folder whose weights a run without checkpoints starts from: a backbone as it was published, which
    is grown on the fly, or one that `titan-speech model expand` grew. Empty: weights are drawn."""

    new_rows: Literal["mean_cov", "mean", "normal"] = "mean_cov"
    """Where rows of new tokens come from when model.initial is grown: mean and covariance of its rows, their mean, or a
    plain normal."""

    new_rows_scale: float = 0.01
    """Factor of the covariance of new rows."""

    attention: Literal["auto", "flex", "varlen", "dense"] = "auto"
    """Attention back end: flex or varlen (CUDA), dense (a mask and SDPA, memory grows with the square of seq_len); auto
    is flex on CUDA and dense on a CPU."""


@dataclass(frozen=True, kw_only=True)
class TokenizerTable:
    """The backbone's text tokenizer."""

    path: str = "tokenizer/tiny"
    """Folder with tokenizer.json; its fingerprint must equal the one the stores were built with."""


@dataclass(frozen=True, kw_only=True)
class SourceTable:
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
class LanguageRuleTable:
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
class DataTable:
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

    source: tuple[SourceTable, ...] = ()
    """[[data.source]] tables."""

    language_rule: tuple[LanguageRuleTable, ...] = ()
    """[[data.language_rule]] tables."""


@dataclass(frozen=True, kw_only=True)
class StorageTable:
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


@dataclass(frozen=True, kw_only=True)
class TrainingTable:
    """Budget in tokens; steps and accumulation are derived."""

    seq_len: int = 2048
    """Tokens in one pack."""

    global_batch_tokens: int = 524_288
    """Tokens in one optimizer step over all ranks; a multiple of seq_len."""

    target_tokens: int = 1_000_000_000
    """Tokens of the whole stage; steps = ceil(target_tokens / global_batch_tokens)."""

    local_batch_packs: int = 8
    """Packs one data-parallel rank computes at once; accumulation follows from it."""

    max_norm: float = 1.0
    """Gradient norm clip."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of parameters, gradients and optimizer state."""

    mixed_precision_param: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type of the parameters; the fp32 master weights stay."""

    cuda_graphs: bool = False
    """Capture the forward and backward pass in a CUDA graph (CUDA only; elsewhere nothing is captured)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerTable:
    """AdamW; no decay on norms and biases."""

    lr: float = 1.2e-4
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas."""

    eps: float = 1e-8
    """AdamW eps."""

    weight_decay: float = 0.1
    """Decoupled weight decay of matrices."""

    new_rows_lr_factor: float = 1.0
    """Learning rate of the vocabulary rows that are not the backbone's (codes, specials), as a multiple of lr."""

    frozen_backbone_ratio: float = 0.0
    """Part of the steps, at the beginning, in which only these new rows learn and the backbone stays as it is."""

    implementation: Literal["fused", "foreach", "for-loop"] = "fused"
    """Optimizer kernel."""


@dataclass(frozen=True, kw_only=True)
class LRSchedulerTable:
    """Linear warmup, then decay from optimizer.lr to end_lr over the rest of the stage."""

    warmup_ratio: float = 0.1
    """Part of the steps spent in warmup."""

    end_lr: float = 3e-5
    """Learning rate of the last step."""

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay."""


@dataclass(frozen=True, kw_only=True)
class LossTable:
    """Cross entropy over the grown vocabulary."""

    num_chunks: int = 8
    """Chunks of the sequence for which logits exist at once; 1 computes them whole."""


@dataclass(frozen=True, kw_only=True)
class ParallelismTable:
    """Degrees of parallelism; what is left over shards data (FSDP). docs/parallelism.md says what goes together."""

    data_parallel_replicate_degree: int = 1
    """Replicas of the weights: HSDP, or DDP when the shard degree is 1."""

    data_parallel_shard_degree: int = -1
    """Ranks that shard the weights together (FSDP); -1 takes all that are left."""

    fsdp_reshard_after_forward: Literal["default", "always", "never"] = "default"
    """When FSDP frees gathered weights: always after each layer, never before the backward pass (ZeRO-2: weights stay,
    gradients and optimizer are sharded), or by default after each layer unless there is a pipeline."""

    tensor_parallel_degree: int = 1
    """Ranks that share every matrix, and with it heads, vocabulary and the sequence between layers."""

    pipeline_parallel_degree: int = 1
    """Ranks that each hold some of the layers; untied backbones only."""

    pipeline_parallel_schedule: Literal["1F1B", "GPipe", "Interleaved1F1B"] = "1F1B"
    """Order of forward and backward passes; Interleaved1F1B gives each rank two stages."""

    pipeline_parallel_microbatch_size: int = 1
    """Packs of one pipeline pass; divides training.local_batch_packs."""

    pipeline_parallel_first_stage_less_layers: int = 1
    """Layers the embedding weighs when they are shared out."""

    pipeline_parallel_last_stage_less_layers: int = 1
    """Layers the output head weighs; with a grown vocabulary it is 3.6 layers of an 8B."""

    context_parallel_degree: int = 1
    """Ranks that share each pack, cut along its length."""

    context_parallel_load_balancer: Literal["headtail", "ptrr", "none"] = "headtail"
    """How a pack is cut: headtail gives each rank an early and a late piece, ptrr deals blocks of 128 by how much their
    documents attend to, none cuts it in order, which suits packs of many short documents."""


@dataclass(frozen=True, kw_only=True)
class ActivationCheckpointTable:
    """Trading compute for activation memory."""

    kind: Literal["none", "selective", "full", "memory_budget"] = "selective"
    """none keeps all activations, selective recomputes the cheap ones and every second matrix product, full recomputes
    every layer, memory_budget lets the compiler choose."""

    memory_budget: float = 0.5
    """With memory_budget: 0 keeps as little as full, 1 as much as the compiler likes."""


@dataclass(frozen=True, kw_only=True)
class CompileTable:
    """torch.compile. Packs have one length, so each layer is compiled once, in every stage, fine-tuning too."""

    enable: bool = False
    """Compile."""

    components: tuple[Literal["model", "loss"], ...] = ("model", "loss")
    """What is compiled: the layers, the loss of a chunk."""

    enable_async_tensor_parallel: bool = False
    """Overlap tensor-parallel communication with matrix products (CUDA, compiled layers)."""


@dataclass(frozen=True, kw_only=True)
class Float8Table:
    """Matrix products in float8 (torchao), on devices of compute capability 8.9 (L40S, H100) or later."""

    recipe: Literal["none", "rowwise", "rowwise_with_gw_hp", "tensorwise"] = "none"
    """none; rowwise scales each row, rowwise_with_gw_hp also keeps gradients of weights in high precision; tensorwise
    has one scale a matrix, fastest and least exact."""

    filter_fqns: tuple[str, ...] = ("lm_head",)
    """Linear layers whose name contains one of these stay as they are; the embedding always does."""

    emulate: bool = False
    """Round as float8 would and multiply in high precision, on any device and much slower; not with compile."""


@dataclass(frozen=True, kw_only=True)
class CadenceRule:
    """How often checkpoints are saved in a stretch of the run; by default every 1,000 steps up to 10,000, every 5,000
    up to 50,000, then every 10,000. Written as cadence = [{until = 10_000, every = 1_000}, ..., {every = 10_000}]."""

    every: int
    """Steps between checkpoints: those it divides."""

    until: int | None = None
    """Last step of the stretch; none: to the end."""


@dataclass(frozen=True, kw_only=True)
class CheckpointTable:
    """DCP checkpoints: when they are saved, and which are kept."""

    enable: bool = True
    """Save and resume."""

    folder: str = "checkpoint"
    """Folder inside the run folder."""

    cadence: tuple[CadenceRule, ...] = (
        CadenceRule(until=10_000, every=1_000),
        CadenceRule(until=50_000, every=5_000),
        CadenceRule(every=10_000),
    )
    """When a checkpoint is saved; the last step always is."""

    at_least_every_minutes: float = 30.0
    """Also save when the last save is longer ago than this; 0: only by cadence."""

    keep_last_full: int = 5
    """Newest checkpoints a run can resume from; 0 keeps all, as they are."""

    keep_last_model_only: int = 20
    """Older ones that are kept as weights only; what is older still is deleted."""

    milestone_every_steps: int = 50_000
    """Every so many steps one is kept for ever, in full; 0: none. Others can be pinned: titan-speech checkpoint pin."""

    export_milestones: bool = True
    """Also write milestones and what is pinned as Hugging Face folders, hf/step-N in the run folder, by a process
    beside training."""

    async_mode: Literal["disabled", "async", "async_with_pinned_mem"] = "async"
    """How a save overlaps with training: not at all; written in the background from a copy in memory; or copied in the
    background too, while the next step computes its gradients (on CUDA into page-locked memory)."""

    max_failed_saves: int = 3
    """Saves that may fail in a row (disk full, no access) before the run stops; the last step's must not fail."""

    verify_checksums: bool = True
    """Read a checkpoint's every byte before the run resumes from it; without, sizes only."""

    load_step: int = -1
    """Step to resume from; -1 is the newest. A step that is not there stops the run."""

    initial_load_path: str = ""
    """Checkpoint folder (.../step-N, also s3://bucket/prefix/step-N) whose weights a run without checkpoints of its own
    starts from."""

    create_seed_checkpoint: bool = False
    """Write freshly initialised weights as step 0 and stop; one process."""


UploadKind = Literal["full", "model", "hf"]


@dataclass(frozen=True, kw_only=True)
class UploadTable:
    """Checkpoints to object storage in the background (see [storage] for the server), and back to a new machine."""

    to: str = ""
    """s3://bucket/prefix of this run alone; empty: nothing is uploaded. A run whose own folder has no newer checkpoint
    resumes from the newest that is complete there."""

    kinds: tuple[UploadKind, ...] = ("full", "model", "hf")
    """What goes up: full checkpoints, those reduced to weights, milestones as Hugging Face folders."""

    keep: Literal["policy", "all"] = "policy"
    """policy: what [checkpoint] would delete in the run folder is removed there too; all: nothing ever is, and what is
    not there yet stays in the run folder while its disk has room for two more."""

    part_mb: float = 16.0
    """Bytes of a file sent at once (1 MB = 1e6 bytes); at least 5.3."""

    num_connections: int = 4
    """Requests a node makes at once; its uploads take about part_mb of memory for each."""

    bandwidth_mb_per_sec: float = 0.0
    """Most that a node sends, on average; 0: no limit."""

    finish_sec: float = 3600.0
    """How long the end of a run waits until everything is up."""

    stop_sec: float = 30.0
    """The same for a run that a signal or a rollback ended, and that will be started again."""


@dataclass(frozen=True, kw_only=True)
class HealthTable:
    """Steps that are not as they should be, and signals."""

    max_skipped_steps: int = 10
    """A step whose loss or gradient is not finite is skipped: its data is passed over, weights and optimizer stay as
    they are. More than this many among the last skip_window_steps end the run."""

    skip_window_steps: int = 100
    """See max_skipped_steps."""

    spike_z: float = 8.0
    """A loss is a spike when it lies this many robust standard deviations above the median of the last
    spike_window_steps; 0 looks for none. Steps of the warmup are left out."""

    spike_window_steps: int = 100
    """See spike_z; until it is full, nothing is a spike."""

    on_spike: Literal["warn", "rollback"] = "warn"
    """warn: say it and go on; rollback: go back to the last checkpoint before the spike_skip_steps steps that end with
    the spike, and pass over their data. The run ends with code 75 for that, and is to be started again."""

    spike_skip_steps: int = 10
    """See on_spike."""

    max_rollbacks: int = 3
    """Rollbacks in a run; the next spike ends it."""

    stop_within_sec: float = 120.0
    """After SIGTERM or SIGUSR1 all ranks save at the next step boundary and leave with code 75; a rank that is not done
    by then leaves without. torchrun waits for --shutdown-timeout only (default 30 s)."""


@dataclass(frozen=True, kw_only=True)
class MetricsTable:
    """Where figures go. metrics.jsonl in the run folder is always written."""

    log_every_steps: int = 10
    """Steps between two log lines."""

    tensorboard: bool = False
    """Write TensorBoard events."""

    wandb: bool = False
    """Send to Weights & Biases (WANDB_MODE=offline is respected)."""


@dataclass(frozen=True, kw_only=True)
class ProfilerTable:
    """Traces of rank 0, in profiling/traces of the run folder: what the time of a step goes to."""

    enable: bool = False
    """Write them."""

    first_steps: int = 2
    """Steps from the start of the process on that are in the first trace; 0: none."""

    steady_from: int = 20
    """Steps that pass before the second trace begins."""

    steady_steps: int = 3
    """Steps in the second trace; 0: none."""


@dataclass(frozen=True, kw_only=True)
class CommTable:
    """Time limits of collectives."""

    init_timeout_seconds: int = 300
    """Limit during start-up and the first step."""

    train_timeout_seconds: int = 100
    """Limit afterwards."""


@dataclass(frozen=True, kw_only=True)
class DebugTable:
    """Switches for finding faults."""

    deterministic: bool = False
    """Use deterministic kernels."""


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """A whole run. `[job] extends = "other.toml"` inherits; `--table.key value` overrides."""

    job: JobTable = field(default_factory=JobTable)
    stage: StageTable = field(default_factory=StageTable)
    model: ModelTable = field(default_factory=ModelTable)
    tokenizer: TokenizerTable = field(default_factory=TokenizerTable)
    data: DataTable = field(default_factory=DataTable)
    storage: StorageTable = field(default_factory=StorageTable)
    training: TrainingTable = field(default_factory=TrainingTable)
    optimizer: OptimizerTable = field(default_factory=OptimizerTable)
    lr_scheduler: LRSchedulerTable = field(default_factory=LRSchedulerTable)
    loss: LossTable = field(default_factory=LossTable)
    parallelism: ParallelismTable = field(default_factory=ParallelismTable)
    activation_checkpoint: ActivationCheckpointTable = field(default_factory=ActivationCheckpointTable)
    compile: CompileTable = field(default_factory=CompileTable)
    float8: Float8Table = field(default_factory=Float8Table)
    checkpoint: CheckpointTable = field(default_factory=CheckpointTable)
    upload: UploadTable = field(default_factory=UploadTable)
    health: HealthTable = field(default_factory=HealthTable)
    metrics: MetricsTable = field(default_factory=MetricsTable)
    profiler: ProfilerTable = field(default_factory=ProfilerTable)
    comm: CommTable = field(default_factory=CommTable)
    debug: DebugTable = field(default_factory=DebugTable)
