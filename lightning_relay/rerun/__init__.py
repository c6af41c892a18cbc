"""A LightningModule's own step, run again without a trace."""

from lightning_relay.rerun.batches import KeptBatch
from lightning_relay.rerun.result import (
    NotRepeatedError,
    StepResult,
    check_repeatable,
    check_same_as_own,
)
from lightning_relay.rerun.step import StepRerun
from lightning_relay.rerun.surroundings import Surroundings

__all__ = [
    "KeptBatch",
    "NotRepeatedError",
    "StepRerun",
    "StepResult",
    "Surroundings",
    "check_repeatable",
    "check_same_as_own",
]
