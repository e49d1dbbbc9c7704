"""Errors that speak to the person running the job.

Each class is also the standard-library type a caller would expect, so `except ValueError` keeps working. A message
says what was found, what was expected, where, and what to do next.
"""


class TitanSpeechError(Exception):
    """Base of every error that bad input can cause."""


class ConfigError(TitanSpeechError, ValueError):
    """The configuration is misspelt, mistyped, contradictory or infeasible."""


class DataError(TitanSpeechError, ValueError):
    """A store, shard, sidecar or manifest is missing, damaged or unfit for the run."""


class VocabularyError(TitanSpeechError, ValueError):
    """Codes, ids or a tokenizer do not fit the vocabulary."""


class CodecError(TitanSpeechError, ValueError):
    """Audio or codes a codec cannot take."""


class CheckpointError(TitanSpeechError, RuntimeError):
    """A checkpoint is absent, incomplete, or belongs to another run."""


class ModelError(TitanSpeechError, ValueError):
    """Weights, a model folder or a tokenizer beside them do not fit each other or cannot be used here."""


class PublishError(TitanSpeechError, OSError):
    """A repository of the Hugging Face Hub cannot be reached, or refuses."""


class PlanError(TitanSpeechError, RuntimeError):
    """A run that does not fit together: its step cannot be traced or taken."""


class HealthError(TitanSpeechError, RuntimeError):
    """The run stopped itself, since going on would do harm."""


class MeetingError(TitanSpeechError, TimeoutError):
    """The ranks of a run did not find each other."""
