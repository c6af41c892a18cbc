"""Errors about steps that are not there."""


class StepError(ValueError):
    """No sequence so far has the step that was asked for; longer sequences may still come."""


class TooShortError(ValueError):
    """Values to hold or recorded states end before a sequence does."""
