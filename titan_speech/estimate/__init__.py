"""Estimates what a run needs before it starts, without a GPU: steps, memory, communication, time and cost.

configuration
  |  offline.py         vocabulary and sizes, also where tokenizer and weights are missing; what needs CUDA left out
  |  model/flops.py     parameters and FLOPs, in closed form
  |  data_usage.py      tokens, epochs and hours by source and language, from the stores
  v
trace on fake tensors, in a process of its own
  |  trace_process.py   jobs in, traces out
  |  fake_inputs.py     the run's own configuration tree over random codes
  |  rank_trace.py      forward, loss, backward, optimizer of one rank; pipeline_trace.py for a rank of a pipeline
  |  tracker.py         what operators allocate, multiply and send
  v
step_trace.py           memory by component, FLOPs, bytes sent; extrapolated from three and four layers to all
  |  devices.py         devices, assumptions, published runs
  |  speed.py           seconds per step, with one efficiency fitted to published runs
  |  speed_by_parts.py  seconds of a pass by parts, MFU and levers; efficiencies.py has their data
  |  loss_head.py       the rule for the head of the loss and the number of its chunks
  |  preference_cost.py, rollout_cost.py   what preference and reward training compute besides a cross-entropy
  |  dry_run.py         on request: two layers that really take steps, on a fake process group
  v
result.py               `RunEstimate`, which estimate_run.py fills
  |  report.py          as a page     record.py   as JSON     compare.py   two side by side
"""
