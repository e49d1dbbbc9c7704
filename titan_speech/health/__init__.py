"""What keeps a run sound while it trains.

losses, gradients -> training/step_guard.py a flag on the device: the optimizer skips a step that is not finite
readings          -> monitor.py    counts, limits, loss spikes; the batch of a skipped step is written down
a spike           -> rollback.py   back to an earlier checkpoint, and skip the data that came with the spike
a breach          -> rollback.py   back to an earlier checkpoint, and on with a lower learning rate
SIGTERM, SIGUSR1  -> signals.py    all ranks save at one step and stop
a dead launcher   -> signals.py    the same: save and stop
where ranks are   -> watchdog.py   heartbeats, and one report of a rank that is lost or does not answer
"""
