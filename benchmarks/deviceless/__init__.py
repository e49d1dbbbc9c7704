"""A training step compiled for a GPU on a machine that has none: traced on fake tensors, kernels made and counted.

compile_for_gpu.py   the command: recipes in, verdicts and a report out
  |  stubs.py             two small libraries that stand for the driver
  |  child.py             one step of one recipe, in a process of its own
  |    |  pretended_gpu.py   what torch and Triton are told
  |    |  kernels.py         every graph and every kernel that is made
  v
findings.py          what must not be in them

Nothing is executed on a device, so nothing is known of time. What is known: that a step compiles, without leaving the
compiled graph, and what its kernels need.
"""
