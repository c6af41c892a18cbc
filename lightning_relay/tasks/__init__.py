"""Data to try the package on: synthetic tasks, real time series, and a recurrent classifier."""

from lightning_relay.tasks.block import BlockTask
from lightning_relay.tasks.classifier import Cell, RecurrentClassifier
from lightning_relay.tasks.memory import MemoryTask
from lightning_relay.tasks.time_series import TimeSeriesTask

__all__ = ["BlockTask", "Cell", "MemoryTask", "RecurrentClassifier", "TimeSeriesTask"]
