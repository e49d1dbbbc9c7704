"""Generating speech from a trained model; the trainer does not import this package.

load.py                    a run's checkpoint, loaded in one process
measures.py                what shows a collapse in generated tokens
sound_measures.py          silence, range of pitch and rate of syllables of decoded speech
generation_check.py        fixed prompts, generated from and measured while a model trains
generation_check_sound.py  their sound, decoded and kept in the run
sampling.py                speech codes sampled from it, one prompt at a time
synthesize.py              speech codes from an exported model folder, in batches, also in a cloned voice
vllm_speech.py             the same, decoded by vLLM; vllm_process.py is the process it runs in
write_speech.py            codes to wav files, and records of how they were made; paths are checked first
"""
