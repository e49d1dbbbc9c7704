"""Errors for the person who runs the job.

Each class is also the standard-library type a caller would expect, so `except ValueError` keeps working. A message
says what was found, what was expected, where, and what to do next.
"""


class TitanSpeechError(Exception):
    """Base of every error that bad input can cause."""


class ConfigError(TitanSpeechError, ValueError):
    """The configuration is misspelled, mistyped, contradictory or infeasible."""


class DataError(TitanSpeechError, ValueError):
    """A store, shard, index or manifest is missing, damaged or does not fit the run."""


class VocabularyError(TitanSpeechError, ValueError):
    """Codes, ids or a tokenizer do not fit the vocabulary."""


class CodecError(TitanSpeechError, ValueError):
    """A codec cannot take this audio or these codes."""


class CheckpointError(TitanSpeechError, RuntimeError):
    """A checkpoint is missing or incomplete, or belongs to another run."""


class ModelError(TitanSpeechError, ValueError):
    """Weights, model folder and tokenizer do not fit each other, or this trainer cannot use them."""


class PublishError(TitanSpeechError, OSError):
    """A repository on the Hugging Face Hub cannot be reached, or refuses the upload."""


class EstimateError(TitanSpeechError, RuntimeError):
    """A run cannot be estimated: its step cannot be traced or executed."""


class HealthError(TitanSpeechError, RuntimeError):
    """The run stopped itself, because continuing would do harm."""


class BoundsLeftError(HealthError):
    """What was measured of a run left the bounds of its configuration."""

    def __init__(self, message: str, *, found: str = "", step: int = 0, within_step: int = 0) -> None:
        """Args:
        message: for people, without which checkpoint is good.
        found: the bounds that were left, in few words.
        step: steps done.
        within_step: a checkpoint up to this step is of weights that kept the bounds.
        """
        super().__init__(message)
        self.found, self.step, self.within_step = found, step, within_step


class RendezvousError(TitanSpeechError, TimeoutError):
    """The ranks of a run did not find each other."""
