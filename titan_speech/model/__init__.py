"""Text backbones with an extended vocabulary, as TorchTitan model specifications.

backbones.py   sizes of each family and flavor; without torch
spec.py        a family and flavor as decoder configuration and ModelSpec, with embedding and head tied when distributed
attention.py   attention inside documents: flex, varlen, dense
rotary.py      rotary embedding in real numbers, and checkpoints of the complex form
float8.py      linear layers in float8
lora.py        adapters on a decoder configuration; which weights are theirs; merging them
new_rows.py    rows of the new tokens in embedding and head, on this rank
flops.py       parameters and FLOPs in closed form

exported_files.py   which files a model exported as a Hugging Face folder consists of
"""
