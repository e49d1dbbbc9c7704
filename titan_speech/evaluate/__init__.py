"""What a trained model is worth: what people would hear, and whether what is served is what was trained.

checkpoint or folder of recordings
  |  prompt_packs/    prompts: frozen, versioned by their hash, proved absent from the training data
  v
clip.py               `Clip`: one utterance made for a prompt; `Score`: a value, or the reason why it is missing;
  |                   the same clips through the codec: the best that a model of its codes can sound
  |  models/          recognizers, speaker encoders, opinion scores; each in a process of its own
  |  normalization/   texts as they are compared: script, numerals, nukta, joiners, dandas, case, punctuation
  |  scorers/         `Scorer`: words, speaker, naturalness, rate, pauses, pitch, silence, repetition
  v
recorded_clips.py     clips from a listing of wavs, or from a pack and what was spoken for it
scorer_choice.py      the scorers that a user asks for, each model in a process of its own
result.py             `Result`: every score of every clip, with the key of all it depends on; JSON; names of the files
votes.py              what listeners preferred: Bradley-Terry strengths
summary.py            a result as Markdown, for the card of an export
trust.py              which ASR may judge which language, measured on recordings
reward.py             the reward of a completion, for alignment; reward_server.py over HTTP on loopback
store_scores.py       scores of the samples of a token store, for the conditions of its sources
confidence.py         intervals, p-values and what a test can detect, of ratios of sums over prompts
statistics.py         means of a result with intervals, paired comparisons of two results
best_checkpoint.py    which of several results is the best, and why

checkpoint, exported folder
  |  export_checks.py   config.json, rows of the embedding, stop token and prompts of the folder, without its model
  |  engines.py         documents, the same on every machine, and what other engines answer to them;
  |                     engine_process.py is the process they run in
  v
parity.py               log-probabilities and greedy ids compared with the trainer's forward; a report

a run: its folder, or an s3:// address
  |  watch/            checkpoints as they appear: generated and scored once each, by any number of workers
  v
RUN/evaluation
"""
