"""A LightningModule's own step, run again without a trace."""

from lightning_relay.rerun.step import (
    Stage,
    StepRerun,
    StepResult,
    check_repeatable,
    is_alike,
    rebuilt,
)

__all__ = ["Stage", "StepRerun", "StepResult", "check_repeatable", "is_alike", "rebuilt"]
