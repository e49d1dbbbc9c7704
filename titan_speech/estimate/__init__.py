"""What a run will do, need and cost, before it is started; no GPU is needed to know it.

configuration
  |  rows.py          vocabulary and sizes, also where tokenizer and weights are not on this machine
  |  counts.py        parameters and FLOPs, in closed form
  |  reading.py       tokens, epochs and hours by source and language, from the stores
  |  storage.py       checkpoints
  v
run on fake tensors
  |  this_machine.py   the configuration without what needs CUDA
  |  stand_in.py      the run's own tree over random codes
  |  kernels.py       what a GPU's kernels keep                      (in a process of its own: trace_process)
  |  step_trace.py    forward, loss, backward, optimizer of one rank (rank_trace or pipeline_trace; ledger, seams,
  |                   collectives, timeline)
  |  extend.py        from three and four layers to all
  v
step.StepTrace        memory by component, FLOPs, bytes sent
  |  hardware.py      devices, assumptions, published runs
  |  speed.py         seconds of a step
  |  dry_run.py        if asked for: two layers that really step, on a fake process group
  v
answer.RunPlan        by run_plan.py; page.py prints it, record.py is its JSON, compare.py lays two side by side
"""
