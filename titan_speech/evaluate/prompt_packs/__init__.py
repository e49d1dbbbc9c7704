"""Prompt packs: what every checkpoint is asked to say.

drafts.py          `Draft`: a prompt before it is in a pack, with its sounds in memory
held_out.py        drafts from a held-out set; voices across languages
text_files.py      drafts from JSONL and plain text
public_sets.py     drafts from the layouts of Seed-TTS-eval, MiniMax multilingual and EmergentTTS-Eval
  |
build.py           which are canaries; the folder is written
  v
prompt_pack.py     `PromptPack`, `Prompt`: written once, read and checked against its hash
  |
contamination.py   what of a pack is also in a training store
"""
