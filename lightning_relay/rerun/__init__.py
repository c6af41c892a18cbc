"""A LightningModule's own step, run again without a trace."""

from lightning_relay.rerun.batches import KeptBatch
from lightning_relay.rerun.result import StepResult, check_repeatable
from lightning_relay.rerun.step import StepRerun
from lightning_relay.rerun.traces import KeptParameters

__all__ = ["KeptBatch", "KeptParameters", "StepRerun", "StepResult", "check_repeatable"]
