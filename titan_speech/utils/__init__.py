"""What every package may use: no knowledge of stores, runs or models."""
