"""README.md of an exported model: what it is, how to prompt it, and where it came from.

In: the run's configuration, the step, its provenance and the hashes of its codecs. Out: Markdown with the front matter
model hubs read. Nothing is claimed that was not recorded: a model without evaluation notes says that it has none.
"""

from __future__ import annotations

from titan_speech.checkpoint.provenance import Provenance
from titan_speech.config.tables import SpeechConfig
from titan_speech.model.shape import BackboneShape
from titan_speech.vocabulary import NUM_CODES, Vocabulary

_EXAMPLE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = "{bos}<|text_start|>Hello.<|text_end|><|speech_start|>"
inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=2000)[0, inputs.input_ids.shape[1] :]
codes = [int(i) - {first_code_id} for i in ids if {first_code_id} <= i < {first_special_id}]  # 50 a second
```"""


def model_card(
    config: SpeechConfig,
    step: int,
    shape: BackboneShape,
    vocabulary: Vocabulary,
    provenance: Provenance | None,
    bos_token: str,
    codecs: tuple[str, ...],
    notes: str = "",
) -> str:
    """The card as Markdown."""
    example = _EXAMPLE.format(
        bos=bos_token, first_code_id=vocabulary.first_code_id, first_special_id=vocabulary.first_special_id
    )
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: text-to-speech\ntags:\n- titan_speech\n---",
        f"# {config.job.description or 'Speech language model'}",
        f"A {shape.family} backbone of {shape.num_parameters(vocabulary.num_rows) / 1e6:,.1f} M parameters with "
        f"{NUM_CODES:,} speech codes (50 a second) in its vocabulary, trained with titan_speech.",
        "## Use\n" + example + "\nCodes are decoded to audio by the codec named below.",
        "## Training\n" + "\n".join(_training_lines(config, step)),
        "## Provenance\n" + "\n".join([_codec_line(codecs), *_provenance_lines(provenance)]),
        "## Evaluation\n" + (notes or "None is recorded for this checkpoint."),
    ]
    return "\n\n".join(sections) + "\n"


def _training_lines(config: SpeechConfig, step: int) -> list[str]:
    num_tokens = step * config.training.global_batch_tokens
    lines = [f"- step {step:,}: {num_tokens:,} tokens, {config.training.seq_len:,} a sequence"]
    lines += [
        f"- source `{source.name}`: task {source.task}, {source.share:.1%} of the tokens"
        for source in config.data.source
    ]
    return lines


def _codec_line(codecs: tuple[str, ...]) -> str:
    return f"- codec of its codes, by hash: {', '.join(codecs) or 'unknown, as no store of speech was at hand'}"


def _provenance_lines(provenance: Provenance | None) -> list[str]:
    if provenance is None:
        return ["- the checkpoint has no provenance record"]
    return [
        f"- first weights: {provenance.initial or 'no backbone is named in the record'}",
        f"- vocabulary {provenance.vocabulary}, grammar {provenance.grammar}, data plan {provenance.plan}",
        f"- token stores {', '.join(provenance.stores) or 'none'}",
        f"- git revision {provenance.git_revision or 'unknown'}; {', '.join(provenance.versions)}",
    ]
