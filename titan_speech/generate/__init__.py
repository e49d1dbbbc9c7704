"""Generating speech from a trained model; the training path does not import this package.

load.py           a run's checkpoint, loaded in one process
sampling.py       speech codes sampled from it, one prompt at a time
synthesize.py     speech codes from an exported model folder, in batches, also in a cloned voice
write_speech.py   codes to wav files by the codec, and records of how they were made; paths are checked before sampling
"""
