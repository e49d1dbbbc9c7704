"""The real speech and text that the demo is built from, made from Debian packages of stated versions.

    packages.py   which packages, at which version, under which licence; download and unpack
    prompts.py    asterisk prompts: a human voice and its transcript, five languages
    strings.py    message catalogues (.mo): an English sentence and its Indic translation
    pages.py      help pages: prose paragraphs in reading order, English and Indic
    glosses.py    WordNet glosses: English text
    sentences.py  what counts as a sentence that can be read aloud; how prose is cut into them
    voices.py     espeak-ng and festival: a sentence -> 16 kHz samples
    audio.py      any package audio -> trimmed 16 kHz mono samples -> wav
    split.py      train or held out, decided by prompt
    romanise.py   Indic and Cyrillic script -> Latin letters
    rows.py       one row of corpus.jsonl, one row of text.jsonl

`scripts/build_corpus.py` joins them. Nothing here is imported by training.
"""
