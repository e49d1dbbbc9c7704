"""What a run shows of itself: counters of what was read, losses by group, and where the figures go."""
