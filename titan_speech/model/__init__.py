"""Backbones grown by the speech tokens, as TorchTitan model specifications."""
