"""Text and codes become token ids, and samples become documents.

languages.py          language tags and scripts
normalize.py          Unicode and Indic normalization of text
known_tokenizers.py   published vocabularies, recognized by their tokens
word_ids.py           faster batch encoding for building stores: known words are looked up
text_tokenizer.py     the backbone's tokenizer, from tokenizer.json or tiktoken ranks
vocabulary.py         rows of text, codes and special tokens; the only module that computes with ids
prompt_template.py    the prompt template of each task, for training and for decoding
chat_template.py      the same grammar as a Jinja template, for clients that know chat templates only
token_runs.py         documents assembled from template tokens and stored values
foreign_layouts.py    vocabularies of the Inworld trainer and of Llasa, mapped by name
"""
