"""A training step compiled for a GPU on a machine that has none: traced on fake tensors, kernels made and counted.

compile_for_gpu.py   the command: recipes in, verdicts and a report out
  |  levers.py            changes of a recipe that are compiled beside it
  |  child_process.py     a process that pretends to have a GPU
  |    |  stubs.py            two small libraries that stand for the driver
  |  child.py             one step of one recipe, in such a process
  |    |  pretended_gpu.py   what torch and Triton are told
  |    |  cuda_step.py       the steps of a rank
  |    |  kernels.py         every graph and every kernel that is made
  v
findings.py          what must not be in them
results.py           files and tables

heads.py             heads of the loss, for loss_heads.py, counted by head_counter.py

Nothing is executed on a device, so nothing is known of time. What is known: that a step compiles, without leaving the
compiled graph, and what its kernels need.
"""
