"""Models that listen: recognizers, speaker encoders, predictors of opinion scores. Users name them, none is downloaded.

base.py          `AudioModel`: a description that loads into a function of one waveform; weights by folder or hub id
recognizers.py   Whisper by faster-whisper, or a transformers folder
voices.py        speaker encoders: Resemblyzer, WavLM and others with an x-vector head
opinions.py      DNSMOS, and predictors as TorchScript files, such as UTMOS
isolation.py     a model in a process of its own, with a time limit; a crash or a hang costs one clip
"""
