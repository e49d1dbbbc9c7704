"""Evaluating the checkpoints of a run as they appear, in processes of their own: training never waits.

run_checkpoints.py    complete checkpoints of a run folder or an s3:// address, each with its fingerprint
  |  claims.py            which worker evaluates which, and results that are written once
  v
generate_clips.py     the prompts of a pack, spoken by an exported model, in batches that a later start continues
  v
likelihood.py         how probable the model finds the recordings of the pack
  v
checkpoint_result.py  export, clips, scores: the result of one checkpoint
  v
milestones.py         exports of a live run, compared with their checkpoints
publish.py            results as they appear: notes for cards, TensorBoard, W&B
watcher.py            the loop: what is due, in which order, until it is stopped
"""
