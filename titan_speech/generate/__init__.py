"""What is done with a checkpoint beside training: loading it in one process and decoding from it.

Nothing of the training path imports this room.
"""
