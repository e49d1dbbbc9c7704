"""titan_speech: a TorchTitan-based, composable distributed trainer for speech language models.

The package in the order of the flow; every import points down the list of floors in pyproject.toml (`lint-imports`).

                what goes in                                    what comes out
  text_preparation  documents of JSONL, parquet, plain text     clean, deduplicated documents, and a report
  codec         audio                                           codec codes, 50 per second; and audio from codes
  tokenization  text, codes                                     token ids; the vocabulary and the prompt templates
  importers     audio, arrays, WebDataset, MDS, parquet, text   samples, written by `store build`
  store         samples                                         token store: shards, manifest, held-out sets
  storage       token stores, checkpoints                       their copies in S3, uploaded and downloaded verified
  audit         a store                                         a page of samples and checks per language

  config        a TOML file and command-line overrides          SpeechConfig, and the budget derived from it
  preflight     SpeechConfig, the machine                       every problem at once, or none
  estimate      SpeechConfig, a number and kind of GPUs         steps, memory, communication, time and cost

  data          stores, SpeechConfig                            batches that are equal at every world size
  model, hf     a backbone's name or Hugging Face folder        a model with an extended vocabulary
  distributed   environment of the launcher                     rendezvous, decisions that all ranks share
  training      logits, gradients, batches                      losses per group, optimizer steps, metrics.jsonl
  ledger        the parts of training as they begin, end        seconds by class, goodput, lost work, stragglers
  health        losses and gradients of each step, signals      skipped steps, rollbacks, a report of each hang
  checkpoint    weights, optimizer, read positions              complete checkpoints, and the one to resume from
  prepare_run   a checked SpeechConfig                          a trainer, built by trainer_config and run_callbacks
  trainer       all of these                                    a trained run; train.py is the entry of a rank
  launch        words of a configuration, number of ranks       ranks started and watched, their exit code

  hf            a checkpoint                                    a Hugging Face model folder
  evaluate      a checkpoint and its export                     whether what is served is what was trained
  generate      a run or an exported model, text                speech
  align         a model, a store of prompts, a reward           a store of preference pairs, or a trained model
  report        run folders                                     one page of what happened in them
  doctor        a configuration                                 a table: what would fail, and what to do
  cli           words                                           all of the above as `titan-speech <command>`
  utils, errors, exit_codes                                     files, locks, checksums, tables; how things end

hf is named twice, as it reads backbones and writes trained models. Codec codes are 0 to 65,535; token ids are positions
in the vocabulary. Only tokenization/vocabulary.py converts.
"""

__version__ = "0.1.0"
