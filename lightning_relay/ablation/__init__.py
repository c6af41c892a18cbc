"""Knock-out analyses: from a model and sets of its units to a report of the damage."""
