"""The geometry of hidden states: where classes go, and where the dynamics settle."""
