import os

import pytest
import torch
from hypothesis import settings

# Models here are so small that threads cost more than they help, above all where cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--adversarial-cases",
        type=int,
        help="number of generated cases in each file of tests/adversarial",
    )
