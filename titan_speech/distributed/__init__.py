"""Processes that work together: how they meet, how they agree, and how a pipeline deals layers to them.

rendezvous.py   a fresh store for each restart under torchrun
consensus.py    rank 0 decides for all; all ranks agree to stop
pipeline.py     stages and their layers
"""
