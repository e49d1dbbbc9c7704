"""From a token store to the batches of one rank, in the order of the files.

    token store          titan_speech.store
      |  sources.py      [[data.source]] -> parts by language; codec and tokenizer must agree
      |  held_out.py     samples of gold packs cannot be read from here on
      |  documents.py    a part read as a task: lengths of all documents, tokens of any   (speakers)
      v
    documents            one for each sample, framed by prompts.Grammar
      |  packing.py      cut: windows over documents end to end;  best_fit: whole documents
      |  group_packs.py  what a group of documents becomes: its packs and counts               (groups)
      |  streams.py      a run of groups as endless packs: pieces(j) for any j
      |  lanes.py        one source in one language: its lanes, read in turn
      v
    streams              token counts, fill
      |  mixture.py      shares of tokens by source and language        (limits: rules; interior: the solver)
      |  quotas.py       whole packs in a cycle of 65,536 slots
      |  order.py        slot g -> stream, j;  keyed permutations
      v
    order
      |  phases/         where earlier phases left each stream
      |  plan.py         DataPlan.pack(g): all of the above             (fingerprint, plan_table)
      |  pack.py         ids, labels and positions of one pack          (labels: the stream in the high bits)
      v
    packs
      |  slots.py        which rank computes which slot of a step, by lane, and when
      |  loader.py       batches of one rank; state = next slot         (prefetch)
      v
    batches              order_report.py, show.py and phases/report.py print what lies in them

Everything below `documents` is a pure function of (seed, plan fingerprint, slot): no state but one integer.
"""
