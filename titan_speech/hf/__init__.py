"""Hugging Face folders: read, extended by the speech vocabulary, written from checkpoints, published.

a backbone's folder
  |  config_json.py          config.json as the shape of a backbone, and back
  |  model_folder.py         weights of a folder, one tensor or some rows at a time
  |  row_initialization.py   embeddings of new tokens
  |  safetensors_writer.py   safetensors written while tensors are made; the whole folder or none
  |  tokenizer.py            tokenizer.json with speech tokens, ids of special tokens
  |  expand.py               the folder with an extended vocabulary          convert.py  models of other trainers
  v
extended_backbone.py         what a run starts from
  |  (training)
  v
export.py                    a checkpoint as a folder that transformers loads
  |  model_card.py           its card, and the record that decoding must agree with
  |  export_on_save.py       exports of milestones while training continues
  |
  |  LoRA: lora_export.py    a checkpoint's adapter on its base; the sum itself is in model/lora.py
  |        merge.py          `model merge`: both as one run folder of whole weights
  |        peft_folder.py    the adapter alone, as peft loads it
  v
publish.py                   to the Hugging Face Hub
"""
