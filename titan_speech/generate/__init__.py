"""Generating speech from a trained model; the training path does not import this package.

load.py         a run's checkpoint, loaded in one process
decode.py       speech codes from it, one prompt at a time
synthesize.py   speech codes from an exported model folder, in batches, also in a cloned voice
outputs.py      wav files and records, checked before decoding and written completely
"""
