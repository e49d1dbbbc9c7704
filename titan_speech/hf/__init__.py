"""Hugging Face folders: read, grown by the speech vocabulary, written from checkpoints.

folder.py     weights of a folder, one tensor or some rows at a time        config.py   config.json and back
writer.py     safetensors written as they are made, whole folder or nothing  tokenizer.py the grown tokenizer.json
expand.py     a backbone's folder to a grown one: what a run starts from     rows.py     where the new rows come from
export.py     a checkpoint to a folder that transformers loads               card.py     its model card
run_checkpoint.py  the checkpoint that is exported, and what its run says    convert.py  models of other trainers
milestones.py exports beside training                                        publish.py  to the Hub
conversion.py where a converted folder came from     moved_rows.py   rows in another order
special_ids.py ids of special tokens, moved along     foreign_text.py the text tokenizer of another trainer's model
initial.py    what a run starts from                 record.py      what decoding must agree with
"""
