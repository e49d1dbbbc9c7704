"""titan_speech: a TorchTitan-based, composable distributed trainer for speech language models."""

__version__ = "0.1.0"
