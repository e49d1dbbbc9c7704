"""`titan-speech store gold`: a frozen validation set cut out of stores, with all that is akin to it held out.

command --> pack --> candidates (what may be chosen), relatives (recordings and copies)      file: gold.json
"""
