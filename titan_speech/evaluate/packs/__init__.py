"""Prompt packs: what every checkpoint is asked to say.

pack.py      `Pack`, `Prompt`: written once, read and checked against its hash
"""
