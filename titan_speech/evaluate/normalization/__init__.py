"""Texts as they are compared: what was asked for and what was heard, in one form.

letters.py     spellings of one letter or sound, by language: nukta, anusvara, chillus, Urdu forms, case
numerals.py    numbers as words, or digits without separators
scoring.py     `ScoringRules`: the form of a text that error rates are counted on; share of letters in a script, and a
               rough form in Latin letters, to see whether an ASR heard right and wrote in the wrong script
lattice.py     words with several accepted spellings, from a file
"""
