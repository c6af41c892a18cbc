"""Stages of a Trainer whose evaluations are analysed."""

from typing import Literal

Stage = Literal["validate", "test"]
