"""Data to try the package on, a memory task and real time series, and a recurrent classifier."""

from lightning_relay.tasks.classifier import Cell, RecurrentClassifier
from lightning_relay.tasks.memory import MemoryTask
from lightning_relay.tasks.time_series import TimeSeriesTask

__all__ = ["Cell", "MemoryTask", "RecurrentClassifier", "TimeSeriesTask"]
