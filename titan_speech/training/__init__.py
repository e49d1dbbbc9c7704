"""What happens in a training step, in its order, and what is logged of it.

loss.py         cross-entropy with sums per group; groups are language, task, source and kind of token
preference_loss.py  DPO and its kin over packed pairs: the same cross-entropy, weighted by answer
preference.py       the pairs of a step, and the log-probabilities of the frozen reference
                (gradients are clipped by TorchTitan, to training.max_norm)
step_guard.py   whether a step may change the weights: its loss and gradients are finite
optimizer.py    AdamW that skips a rejected step, with a rate of its own for new rows
lr_schedule.py  the learning rate of each step, by the formula of config/budget.py
metrics.py      losses per group, throughput, padding and memory, at log steps
mixture_check.py  what was read of each source and language against the data plan
forward_pass.py  passes without gradients, for what only looks at the model
validation.py   losses on held-out samples, before, between and after steps
jsonl_log.py    metrics.jsonl
sinks/          where else metrics go: TensorBoard, W&B, Prometheus, a webhook
console.py      what a person sees of it: rows, a bar, tables
run_report.py   the start of a run as one block, and its closing summary
tensor_norms.py norms of weights, gradients, updates and activations by layer, at chosen steps
spans.py        TorchTitan's structured spans and ours, for a trace of the run
profiler.py     traces of the first steps and of a steady state
callback.py     what accompanies a run: exports, uploads; how it ended: an event, a message to people
"""
