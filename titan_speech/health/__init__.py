"""What keeps a run sound while it trains.

losses, gradients -> guard.py     flag on the device: the optimizer leaves this step out; figures for the host
figures           -> monitor.py   counts, limits, loss spikes (spikes.py); what was skipped is written down (batch.py)
a spike           -> rollback.py  back to an earlier checkpoint, past the data that came with it
SIGTERM, SIGUSR1  -> signals.py   all ranks save at one step and leave
where ranks are   -> progress.py, hang.py   one report of a collective that does not come back
reason            -> exits.py     exit codes
"""
