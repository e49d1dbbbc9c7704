"""Alignment: what a trained model says is scored, and becomes the data it is trained on next.

store of prompts, model
  |  prompts.py    transcripts of a store that are answered, each once
  |  answers.py    N answers to each prompt with their seeds, kept in a journal that a killed job continues
  |  scorers.py    `Scorer`: named scores of each answer; measures of its codes, or a program of your own
  v
rewards.py         a reward from scores; which answer is chosen and which rejected, and why a prompt gives no pair
  v
pairs.py           `align pairs`: the preference store, with the record of how it was made
grpo.py            `align grpo`: reward training by TRL, on the same prompts and rewards; an exported model again
  |  trl_training.py  TRL's trainer, with bounds that lower the rate or end the job
  |  rollouts.py    scores, rewards and bounds of each step, and answers that are kept to be heard
  |  parity.py      log-probabilities of trainer, transformers and generator before the first step
  v
journal.py, job_files.py   what a job that is continued reads: lines; steps and names of its files
"""
