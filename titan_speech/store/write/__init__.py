"""How samples become shards: spilled as runs sorted by key, checked together, cut in order.

spill.py --> runs.py --> conflicts.py --> cut.py        keys.py gives the order
"""
