"""Text and codes become ids.

vocabulary.py         where ids lie: base rows, codes, special tokens; the only module that converts codes to ids
text_tokenizer.py     the backbone's tokenizer, from tokenizer.json or tiktoken ranks
known_tokenizers.py   published vocabularies, recognized by their tokens
word_ids.py           ids of words that were met before, for fast builds of stores
normalize.py          Unicode and Indic normalization of text
prompt_template.py    the prompt template of each task, for training and for decoding
token_runs.py         documents put together from template tokens and stored values
foreign_layouts.py    ids of the Inworld trainer and of Llasa, by name
"""
