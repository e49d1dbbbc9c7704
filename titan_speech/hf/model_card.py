"""Two files of an exported model that transformers has no place for: titan_speech.json and the card, README.md.

In: a checkpoint at export: the run's configuration, the step, provenance, hashes of its codecs. Out: the record of the
fingerprints that decoding must agree with (and back), and Markdown with the front matter that model hubs read. Nothing
is claimed that was not recorded: a model without evaluation notes says that it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from titan_speech.checkpoint.provenance import Provenance
from titan_speech.codec.base import Codec
from titan_speech.config.schema import SpeechConfig
from titan_speech.errors import CodecError, ModelError
from titan_speech.hf.config_json import read_json, write_json
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.exported_files import CARD_NAME, MODEL_RECORD_NAME
from titan_speech.tokenization.vocabulary import NUM_CODES, Vocabulary
from titan_speech.utils.json_text import read_small_file
from titan_speech.utils.printable import one_line
from titan_speech.utils.record_types import check_types
from titan_speech.utils.text_table import counted

MAX_CARD_BYTES = 16 << 20


@dataclass(frozen=True)
class ModelRecord:
    """Content of titan_speech.json."""

    step: int
    vocabulary: str
    """Fingerprint of the vocabulary."""
    grammar: str
    """Fingerprint of the prompt grammar."""
    codecs: tuple[str, ...]
    """Hashes of the codecs whose codes it was trained on; empty if the stores could not be read at export."""
    weights: str = ""
    """Fingerprint of the checkpoint's weights: a run that was rolled back reaches a step twice, with other weights."""

    def write(self, folder: Path) -> None:
        write_json(folder / MODEL_RECORD_NAME, asdict(self))

    def check_codec(self, codec: Codec) -> None:
        """Check that a codec is the one whose codes the model was trained on.

        Raises:
            CodecError: it is another one; the message names both.
        """
        if self.codecs and codec.codec_hash not in self.codecs:
            raise CodecError(
                f"the model was trained on codes of codec {', '.join(self.codecs)}, but {codec.name} has hash "
                f"{codec.codec_hash}; its decoder would make noise of them. Give the model's codec with --codec."
            )


def read_record(folder: Path) -> ModelRecord:
    """Read the record of an exported folder.

    Raises:
        ModelError: the folder was not written by `titan-speech model export`.
    """
    content = read_json(folder / MODEL_RECORD_NAME, "a folder written by `titan-speech model export`")
    try:
        codecs, weights = tuple(content["codecs"]), content.get("weights", "")
        record = ModelRecord(content["step"], content["vocabulary"], content["grammar"], codecs, weights)
        check_types(record)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / MODEL_RECORD_NAME} is damaged ({error!r}); export the model again") from error
    return record


def read_card(folder: Path) -> str:
    """The model card of an exported folder.

    Raises:
        ModelError: it is missing, or not text.
    """
    try:
        return read_small_file(folder / CARD_NAME, MAX_CARD_BYTES).decode()
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CARD_NAME} cannot be read ({error}); export the model again") from error


UNPROVED = (
    "Unproved: nobody has compared this folder with the model that was trained. `titan-speech model compare` does."
)
_PARITY, _EVALUATION = "## Parity with training", "## Evaluation"
_EXAMPLE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{{"role": "user", "content": "Hello."}}]  # a voice description: a "system" message before it
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
# a reference voice: apply_chat_template(messages, ref_text="What it says.", ref_codes=[17, 4], ...)
# the prompt as text: "{bos}<|text_start|>Hello.<|text_end|><|speech_start|>", encoded without special tokens
ids = model.generate(**inputs, max_new_tokens=2000)[0, inputs.input_ids.shape[1] :]
tokens = tokenizer.convert_ids_to_tokens(ids)
codes = [int(token[4:-2]) for token in tokens if token.startswith("<|s_")]  # <|s_17|> is code 17; 50 per second
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
    parity: str = "",
) -> str:
    """The card as Markdown.

    Args:
        config: of the run.
        step: of the checkpoint.
        shape: of the backbone.
        vocabulary: of the model.
        provenance: of the checkpoint, if it has a record.
        bos_token: that a prompt begins with.
        codecs: hashes of the codecs whose codes it was trained on.
        notes: what was measured of this step, as Markdown.
        parity: what a comparison of this folder with the checkpoint found, as Markdown; empty if none was made.
    """
    example = _EXAMPLE.format(bos=one_line(bos_token))
    codec = f"- codec of its codes, by hash: {', '.join(codecs) or 'unknown, as no store of speech could be read'}"
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: text-to-speech\ntags:\n- titan_speech\n---",
        f"# {as_text(config.job.description) or 'Speech language model'}",
        f"A {shape.family} backbone of {shape.num_parameters(vocabulary.num_rows) / 1e6:,.1f} M parameters with "
        f"{NUM_CODES:,} speech codes (50 per second) in its vocabulary, trained with titan_speech.",
        "## Use\n" + example + "\nCodes are decoded to audio by the codec named below.",
        "## Training\n" + "\n".join(_training_lines(config, step)),
        "## Provenance\n" + "\n".join(map(as_text, [codec, *_provenance_lines(provenance)])),
        f"{_PARITY}\n" + (parity or UNPROVED),
        f"{_EVALUATION}\n" + (notes or "No evaluation is recorded for this checkpoint."),
    ]
    return "\n\n".join(sections) + "\n"


def card_with_parity(card: str, lines: Sequence[str]) -> str:
    """The card of an export that was compared later; what it said of parity before is replaced.

    Args:
        card: as `model_card` wrote it; one without the section is left as it is.
        lines: of the comparison.
    """
    before, head, rest = card.partition(f"{_PARITY}\n")
    _, next_head, after = rest.partition(f"\n{_EVALUATION}\n")
    if not (head and next_head):
        return card
    return before + head + "\n".join(f"- {as_text(line)}" for line in lines) + "\n" + next_head + after


def as_text(line: str) -> str:
    """Records of a checkpoint may be somebody else's: they stay one line of text, without tags and links."""
    # entities are never markup, also behind a backslash, which would end the escape "\\["
    return one_line(line).replace("<", "&lt;").replace("[", "&#91;")


def _training_lines(config: SpeechConfig, step: int) -> list[str]:
    num_tokens = step * config.training.global_batch_tokens
    lines = [f"- step {step:,}: {counted(num_tokens, 'token')}, {config.training.seq_len:,} per sequence"]
    lines += [
        f"- source {as_text(source.name)}: task {source.task}, {source.share:.1%} of the tokens"
        for source in config.data.source
    ]
    return lines


def _provenance_lines(provenance: Provenance | None) -> list[str]:
    if provenance is None:
        return ["- the checkpoint has no provenance record"]
    return [
        f"- first weights: {provenance.initial or 'no backbone is named in the record'}",
        f"- vocabulary {provenance.vocabulary}, grammar {provenance.grammar}, data plan {provenance.plan}",
        f"- token stores {', '.join(provenance.stores) or 'none'}",
        f"- git revision {provenance.git_revision or 'unknown'}; {', '.join(provenance.versions)}",
    ]
