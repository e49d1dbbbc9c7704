"""How the processes of a run find each other, decide together, and share a model as a pipeline.

environment.py  rank and world size, from the launcher's variables
rendezvous.py   a fresh store for each restart under torchrun
last_words.py   how a rank ends: a message, a file for the launcher, the command that resumes; which errors mean that
                another rank is lost
consensus.py    rank 0 decides for all ranks; all ranks agree to save and to stop
plain_values.py what ranks send each other, as JSON
pipeline.py     pipeline stages, their layers, and the bubble
"""
