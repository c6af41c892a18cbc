"""A LightningModule's own step, run again without a trace."""

from lightning_relay.rerun.result import StepResult, check_repeatable
from lightning_relay.rerun.step import StepRerun

__all__ = ["StepRerun", "StepResult", "check_repeatable"]
