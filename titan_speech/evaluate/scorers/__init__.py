"""Scorers: clips to one score per metric, a value or a reason.

base.py            `Scorer`, `Metric`; several scorers over the same clips; waveforms that a model can take: none that
                   is missing, silent or too long
words.py           WER, CER, insertions, by the ASR that is trusted for the language; edit_distance.py counts the errors
voice.py           speaker similarity to the reference
opinion.py         DNSMOS and other predicted opinion scores
measures.py        without a model: repeats, loops, stop failure; duration ratio, rate, pauses, pitch range, silence
"""
