"""What a run trains and how: backbone, tokenizer, token budget, optimizer, learning-rate schedule, loss.

These tables decide the result; `schema_parallelism.py` decides how fast and in how much memory it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from titan_speech.config.fields import Bounds

INITIAL_FLAVOR = "initial"
"""The `model.flavor` that takes its sizes from the folder `model.initial`."""

Beta = Annotated[float, Bounds(at_least=0, below=1)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, its vocabulary extended with speech tokens."""

    family: Literal["llama3", "qwen3"] = "llama3"
    """Backbone family."""

    flavor: str = "debug"
    """Size within the family: debug, debug_untied, debug_head32 (Llama), 0.6B, 1B, 1.7B, 8B (those the family has), or
    initial: the sizes of model.initial."""

    initial: str = ""
    """Hugging Face model folder whose weights a run without checkpoints starts from: a published backbone, whose
    vocabulary is extended at load time, or one extended by `titan-speech model expand`. Empty: random
    initialization."""

    new_rows: Literal["mean_cov", "mean", "normal"] = "mean_cov"
    """How embeddings of new tokens are initialized when the vocabulary of model.initial is extended: from a normal with
    the mean and covariance of the existing embeddings, with their mean, or from a plain normal."""

    new_rows_scale: Annotated[float, Bounds(at_least=0)] = 0.01
    """Factor of the covariance from which new embeddings are sampled."""

    attention: Literal["auto", "flex", "flex_flash", "varlen", "dense"] = "auto"
    """Attention backend: flex (CUDA), flex_flash (the same with the kernel of FlashAttention, a package of its own),
    varlen (CUDA; from Hopper on with that package), dense (a full mask and SDPA; memory is quadratic in seq_len); auto
    is flex on CUDA and dense on a CPU."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """LoRA: low-rank adapters are trained next to frozen matrices. Checkpoints hold the adapter alone; `titan-speech
    model merge` adds it to its base."""

    rank: Annotated[int, Bounds(at_least=0)] = 0
    """Rank of the adapters; 0: no LoRA, all weights are trained."""

    alpha: Annotated[float, Bounds(above=0)] = 32.0
    """Scale: an adapter's output is multiplied by alpha / rank."""

    targets: tuple[str, ...] = ("wqkv", "wo", "w1", "w2", "w3")
    """Matrices of each layer that get an adapter: wqkv (queries, keys and values), wo (output of attention), w1, w3 and
    w2 (gate, up and down projection of the feed-forward layer)."""

    train_new_rows: bool = False
    """Train the embeddings of new vocabulary rows (codes, special tokens) too; for a base that was not trained on
    speech. Checkpoints then hold embedding and head in full."""

    @property
    def is_on(self) -> bool:
        return self.rank > 0

    def __str__(self) -> str:
        """What a checkpoint must agree with; empty without LoRA."""
        rows = "trained" if self.train_new_rows else "frozen"
        targets = " ".join(sorted(self.targets))
        return f"rank {self.rank}, alpha {self.alpha:g}, targets {targets}, new rows {rows}" if self.is_on else ""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The backbone's text tokenizer."""

    path: str = "tokenizer/tiny"
    """Folder with tokenizer.json; its fingerprint must equal that of the tokenizer the stores were built with."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Token budget, batch size and precision; steps and gradient accumulation are derived."""

    seq_len: Annotated[int, Bounds(at_least=2)] = 2048
    """Sequence length (tokens per packed sequence)."""

    global_batch_tokens: Annotated[int, Bounds(at_least=1)] = 524_288
    """Global batch size: tokens per optimizer step over all ranks; a multiple of seq_len."""

    target_tokens: Annotated[int, Bounds(at_least=1)] = 1_000_000_000
    """Token budget of the stage; steps = ceil(target_tokens / global_batch_tokens)."""

    local_batch_packs: Annotated[int, Bounds(at_least=1)] = 8
    """Micro-batch size: packed sequences per data-parallel rank per forward pass; gradient accumulation follows."""

    max_norm: Annotated[float, Bounds(above=0)] = 1.0
    """Gradient clipping: maximum norm."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of parameters, gradients and optimizer state."""

    mixed_precision_param: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute data type of the parameters; the fp32 master weights are kept."""

    cuda_graphs: bool = False
    """Capture the forward and backward pass in a CUDA graph (without effect on a CPU)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; no weight decay on norms and biases."""

    lr: Annotated[float, Bounds(above=0)] = 1.2e-4
    """Peak learning rate."""

    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW betas."""

    eps: Annotated[float, Bounds(above=0)] = 1e-8
    """AdamW epsilon."""

    weight_decay: Annotated[float, Bounds(at_least=0)] = 0.1
    """Decoupled weight decay of matrices."""

    new_rows_lr_factor: Annotated[float, Bounds(above=0)] = 1.0
    """Learning rate of the new vocabulary rows (codes, special tokens), as a multiple of lr."""

    frozen_backbone_ratio: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.0
    """Fraction of the steps, at the start of training, during which the backbone is frozen and only the new vocabulary
    rows are trained."""

    implementation: Literal["fused", "fused_opt_states_bf16", "foreach", "for-loop"] = "fused"
    """Optimizer kernel. fused_opt_states_bf16 (CUDA) keeps AdamW's moments in bf16: 4 bytes per parameter less."""


@dataclass(frozen=True, kw_only=True)
class LRSchedulerConfig:
    """Linear warmup, then decay from optimizer.lr to end_lr over the rest of the stage, or over its end (WSD)."""

    warmup_ratio: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.1
    """Warmup steps as a fraction of all steps."""

    end_lr: Annotated[float, Bounds(at_least=0)] = 3e-5
    """Learning rate of the last step."""

    decay: Literal["cosine", "linear", "sqrt", "constant"] = "cosine"
    """Shape of the decay; sqrt: one minus the square root of the part of the decay that is done; constant: none."""

    decay_ratio: Annotated[float, Bounds(above=0, at_most=1)] = 1.0
    """Decay steps, the last ones, as a fraction of all steps; before them the rate is stable at optimizer.lr
    (warmup-stable-decay, WSD). 1: decay begins after warmup."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Cross-entropy over the extended vocabulary."""

    num_chunks: Annotated[int, Bounds(at_least=1)] = 8
    """Chunks of the sequence whose logits are computed one after the other, to save memory; 1: full logits."""


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Preference training: of two answers to one prompt, the chosen one is made likelier than the rejected one. All
    sources are of task preference."""

    loss: Literal["none", "dpo", "dpo_norm", "ipo", "simpo"] = "none"
    """none: cross-entropy. dpo: Rafailov et al. 2023; dpo_norm: DPO of log-probabilities per token (Lambert et al.
    2024); ipo: Azar et al. 2023, per token; simpo: Meng et al. 2024, per token and without a reference."""

    beta: Annotated[float, Bounds(above=0)] = 0.1
    """Scale of the rewards, which are log-probabilities relative to the reference; for ipo the regularization. dpo: 0.1
    (0.05 to 0.5); dpo_norm: 5; ipo: 0.1; simpo: 2."""

    target_margin: Annotated[float, Bounds(at_least=0)] = 0.0
    """simpo only: the target margin of rewards (gamma); 0.3 to 0.8 of beta."""

    sft_weight: Annotated[float, Bounds(at_least=0)] = 0.0
    """Weight of an added loss, the mean cross-entropy of the chosen answer per token (Pang et al. 2024); keeps its
    probability from falling together with that of the rejected one."""

    max_drift: Annotated[float, Bounds(at_least=0)] = 0.0
    """Nats per token by which the log-probability of the chosen answers may differ from the reference's, as a mean over
    their tokens since the last log line; beyond it the run stops (code 3) and names the last good checkpoint. 0: no
    limit."""

    reference: Literal["precomputed", "adapters_off"] = "precomputed"
    """Where the reference's log-probabilities come from (not for simpo). precomputed: from the weights that the run
    starts from, once before its first step, kept in reference.parquet of the run folder; adapters_off: from the same
    model without its LoRA adapters, in every step."""

    @property
    def is_on(self) -> bool:
        return self.loss != "none"

    @property
    def has_reference(self) -> bool:
        return self.is_on and self.loss != "simpo"

    @property
    def is_per_token(self) -> bool:
        """Whether log-probabilities are divided by the number of tokens of their answer."""
        return self.loss != "dpo"


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Losses on the scored samples of each set of data.held_out, by token kind, task, language and source."""

    every_steps: Annotated[int, Bounds(at_least=0)] = 500
    """Interval in steps; also before the first step and after the last one. 0: no validation. Without effect where
    data.held_out is empty."""

    languages: tuple[str, ...] = ()
    """Languages of which there must be scored samples; empty: every language of the run."""


@dataclass(frozen=True, kw_only=True)
class GenerationCheckConfig:
    """Speech generated while training from fixed prompts of data.held_out. It shows what no loss shows: a stop token
    that is never generated, loops, tokens that are no codes."""

    every_steps: Annotated[int, Bounds(at_least=0)] = 0
    """Interval in steps; also before the first step, as the baseline, and after the last one. 0: no check. Without
    effect where data.held_out is empty; bounds that stop the run are refused there."""

    num_prompts: Annotated[int, Bounds(at_least=1)] = 16
    """Prompts, spread over languages and tasks."""

    max_codes: Annotated[int, Bounds(at_least=8)] = 256
    """Tokens generated per prompt at most; each costs a forward pass over its prompt and what was generated."""

    temperature: Annotated[float, Bounds(at_least=0)] = 0.8
    """Sampling temperature; 0: greedy decoding."""

    top_k: Annotated[int, Bounds(at_least=1)] = 50
    """Tokens to sample from. No token is masked, so that tokens that are no codes are seen."""

    codec: str = ""
    """Codec that decodes the samples to wav files and measures their sound: embedded, a .safetensors file, XCodec2 as a
    folder or a name on the Hub; it must be that of the stores. Empty: ids only."""

    voice: str = ""
    """Speaker encoder that compares the voice of each sample with the one it ought to have, as the measure similarity:
    resemblyzer, or an x-vector model of transformers as a folder or a name on the Hub. It needs codec. Empty: none."""

    max_sec: Annotated[float, Bounds(above=0)] = 600.0
    """Seconds of generating per check, equal on all ranks. A check that takes longer is given up with a warning, has no
    measures, and training continues."""

    max_sound_sec: Annotated[float, Bounds(above=0)] = 60.0
    """Seconds of decoding per check on rank 0, and of comparing voices; samples that are left then stay without sound.
    """

    bounds_from_step: Annotated[int, Bounds(at_least=0)] = 0
    """The first step at which warn and stop apply: an untrained model keeps no bound."""

    warn: dict[str, Annotated[float, Bounds(at_least=0)]] = field(default_factory=dict)
    """Upper bound by measure, above which the run is flagged, as in { stop_failure = 0.5, invalid_tokens = 0.02 }."""

    warn_below: dict[str, Annotated[float, Bounds(at_least=0)]] = field(default_factory=dict)
    """Lower bound by measure, below which the run is flagged, as in { code_entropy_bits = 4.0, length_ratio = 0.3 }."""

    stop: dict[str, Annotated[float, Bounds(at_least=0)]] = field(default_factory=dict)
    """Upper bound by measure, above which the run stops (code 3)."""

    stop_below: dict[str, Annotated[float, Bounds(at_least=0)]] = field(default_factory=dict)
    """Lower bound by measure, below which the run stops (code 3)."""
