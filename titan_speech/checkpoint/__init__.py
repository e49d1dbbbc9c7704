"""What a run starts from, what it saves, and the record of what made each checkpoint.

commit.py         the marker, which makes a folder a checkpoint; Checkpoint(path, step)
folders.py        how checkpoint folders appear and disappear; their locks
index_reader.py   DCP's .metadata, read without running anything in it; dcp_reader.py loads with it
verify.py         whether a checkpoint is what its marker says; a marker for a DCP checkpoint that has none
provenance.py     companion files: what made a checkpoint, and the read position of each data stream
choose_start.py   which checkpoint a run starts from, decided from files alone
suspect.py        a checkpoint whose bytes are whole and whose weights are probably of no use
open_run.py       on all ranks and nodes: lock the run folder, tidy up, fetch, choose
initial_load.py   [stage] from: weights of the previous stage
lora_base.py      the base of a LoRA run, known by its fingerprint
manager.py        saves by policy at step boundaries; saver.py writes in the background and commits
retention.py      which checkpoints are kept; keeper.py removes the others
upload/           to object storage in the background, and back
inspect.py        text for `titan-speech checkpoint list`, `inspect` and `diff`
"""
