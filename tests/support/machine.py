"""What the machine that runs the tests can compute."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

NO_BFLOAT16_LSTM = "this CPU has no bfloat16 kernel for nn.LSTM"


@cache
def has_bfloat16_lstm() -> bool:
    """Whether a plain nn.LSTM runs under autocast to bfloat16, by one call of it."""
    with torch.random.fork_rng([]):
        lstm = nn.LSTM(2, 3)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            lstm(torch.zeros(4, 1, 2))
    except RuntimeError as error:
        if "could not create a primitive" in str(error):
            return False
        raise
    return True


def skip_without_bfloat16_lstm() -> None:
    """Skip the test that calls this where nn.LSTM does not run under autocast to bfloat16."""
    if not has_bfloat16_lstm():
        pytest.skip(NO_BFLOAT16_LSTM)
