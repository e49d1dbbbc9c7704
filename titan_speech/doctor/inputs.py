"""What a run reads, opened and compared without a process group and without weights.

In: a checked configuration. Out: nothing, or the error that the ranks would end with, after about a second.
"""

from __future__ import annotations

from titan_speech.config.schema import SpeechConfig


def check_inputs(config: SpeechConfig) -> None:
    """Open the tokenizer, the stores and the held-out sets, and read the sizes of the backbone.

    Raises:
        DataError, VocabularyError, ModelError, ConfigError: one of them is damaged, or does not fit the others.
    """
    from titan_speech.data.held_out import HeldOut
    from titan_speech.data.sources import open_sources
    from titan_speech.hf.config_json import model_shape
    from titan_speech.prepare_run import model_of_stage
    from titan_speech.tokenization.prompt_template import Grammar
    from titan_speech.tokenization.text_tokenizer import TextTokenizer

    model_shape(model_of_stage(config))
    tokenizer = TextTokenizer.load(config.tokenizer.path)
    held_out = HeldOut.open(config.data.held_out, config.storage)
    grammar = Grammar(tokenizer.vocabulary())
    open_sources(config.data.source, tokenizer, grammar, held_out, config.training.seq_len, config.storage)
