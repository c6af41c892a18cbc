"""Stages of a Trainer that can be analysed."""

from typing import Literal

Stage = Literal["validate", "test"]

STEP_OF: dict[Stage, str] = {"validate": "validation_step", "test": "test_step"}
"""Name of the module's step in each stage."""
