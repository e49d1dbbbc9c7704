"""Views: documents made of several samples of a part, found from metadata alone.

    clone.py     a segment after another of its speaker, together not above the sequence length
    stitch.py    neighbouring segments of one recording and speaker as one long document

A view has one document number per sample of its part, like every task (documents.py), so order and packing stay as they
are and any slot is still found in constant time: a sample that opens no document has length 0.
"""
