"""What a run reads, opened and compared without a process group and without weights.

In: a checked configuration. Out: nothing, or the error that the ranks would end with.
"""

from __future__ import annotations

from titan_speech.config.schema import SpeechConfig


def check_inputs(config: SpeechConfig) -> None:
    """Open the tokenizer, the stores and the held-out sets, plan the data, and read the sizes of the backbone.

    Raises:
        DataError, VocabularyError, ModelError, ConfigError: one of them is damaged, or does not fit the others.
    """
    from titan_speech.data.plan import DataPlan
    from titan_speech.data.validation_set import open_validation_sets
    from titan_speech.hf.config_json import model_shape
    from titan_speech.prepare_run import model_of_stage
    from titan_speech.tokenization.prompt_template import Grammar
    from titan_speech.tokenization.text_tokenizer import TextTokenizer

    model_shape(model_of_stage(config))
    tokenizer = TextTokenizer.load(config.tokenizer.path)
    plan = DataPlan.from_config(config, Grammar(tokenizer.vocabulary()), tokenizer)
    open_validation_sets(config, plan, tokenizer)
