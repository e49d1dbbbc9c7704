"""Checkpoints to object storage in the background, and back."""
