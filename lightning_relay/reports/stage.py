"""Stages of a Trainer that can be analysed."""

from typing import Literal

Stage = Literal["validate", "test"]
