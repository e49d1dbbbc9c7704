"""A worker that fails in its first life: meets, looks for what a life before wrote, writes something of its own."""

import os
import sys

from torch.distributed.rendezvous import rendezvous

from titan_speech.distributed.rendezvous import use_fresh_store_after_restart

hosted = use_fresh_store_after_restart()  # kept: others still ask this process
store, rank, _ = next(iter(rendezvous("env://")))
store.set(f"seen/{rank}", str(store.check(["decision"])))
if rank == 0:
    store.get("seen/1")
    store.set("decision", os.environ["TORCHELASTIC_RESTART_COUNT"])
decision, seen = store.get("decision").decode(), store.get(f"seen/{rank}").decode()
# One write with its line's end: print's two may have the other rank's line between them.
os.write(1, f"rank {rank} read {decision}, was there before: {seen}\n".encode())
if rank == 0:
    store.get("done/1")
else:
    store.set("done/1", "")
sys.exit(os.environ["TORCHELASTIC_RESTART_COUNT"] == "0")
