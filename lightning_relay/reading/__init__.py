"""Reading class labels off a batch, predicted classes off a step, and concepts off both."""
