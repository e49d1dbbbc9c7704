"""What a trained model is worth: so far, whether what is served is what was trained.

checkpoint, exported folder
  |  parity_documents.py   documents of all tasks with random content, the same on every machine
  |  export_checks.py      config.json, rows of the embedding, stop token and prompts of the folder, without its model
  |  engines.py            what other engines answer; engine_process.py is the process they run in
  v
parity.py                  log-probabilities and greedy ids compared with the trainer's forward; a report

claims.py                  which worker evaluates which checkpoint, and results that are written once
"""
