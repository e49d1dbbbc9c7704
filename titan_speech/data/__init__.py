"""From a token store to the batches of one rank. The files, in the order of the flow:

    token store             titan_speech.store
      |  sources.py             [[data.source]] -> parts by language, each read as a task: the length of every
      |                         document, the tokens of any; codec and tokenizer must agree
      |      documents.py, paired_documents.py
      |  held_out_samples.py    samples of held-out sets cannot be read from here on, nor trained on under another id
      |  unread_samples.py      samples that a task cannot read, counted by reason
      |  pairing.py             clone and preference pairs, stitched documents, computed from sidecar columns
      v
    documents               one per sample, in the prompt template of its task
      |  packing.py             fixed blocks of documents; windows and best fit; what a block holds
      |  pack_counts.py         the packs of every block, counted once and cached next to the store
      |  streams.py             a shuffle partition as endless packs: pieces(j) for any j
      |  shuffle_partitions.py  a stream: its partitions, read in turn; which slots read neighbouring shards
      v
    streams                 one source in one language: token counts, fill
      |  mixture.py             shares of tokens by source and language, within limits
      |  mixture_solver.py      the nearest shares that keep the limits
      |  order.py               shares as whole packs per cycle of 65,536 slots; slot g -> stream, j; keyed permutations
      |  planned_streams.py     one record per stream, and the fingerprint of all of them
      v
    order
      |  phases.py              what earlier phases read of each stream, and where it resumes
      |  phase_files.py         phases on disk, next to checkpoints
      |  phase_changes.py       the phase that the configuration asks for, and what changed
      |  plan.py                DataPlan.pack(g): all of the above
      |  pack_layout.py         ids, labels and positions of packs (the stream in the high bits of a label)
      v
    packs
      |  slots.py               which rank computes which slot of a step, and when
      |  shard_prefetch.py      fetches shards from object storage before they are needed
      |  loader.py              batches of one rank; state = next slot
      |  batch_checks.py        labels are the next token; packs by stream, counted from labels
      |  code_shift.py          codes are not shifted against those of the held-out sets
      v
    batches                 validation_set.py      held-out samples as packs in a fixed order
                            generation_prompts.py  prompts of held-out sets
                            inspect.py and phase_report.py print what they contain

Everything below `documents` is a pure function of (seed, plan fingerprint, slot): no state but one integer.
"""
