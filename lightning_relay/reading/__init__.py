"""What a batch and a step tell: labels, answers, concepts."""
