"""Metrics in a user's own validation_step: the example of the guide."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_relay import (
    KnockoutCallback,
    RelayInformationCallback,
    discretize,
    relay_information,
    relay_share,
)
from tests.support.models import STEPS
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer


def model_of_the_guide() -> Any:
    page = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    section = page.partition("## In your own validation_step")[2]
    names: dict[str, Any] = {"LightningModule": LightningModule, "nn": nn}
    exec(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[0], names)
    model = names["Model"]()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))
        model.head.bias.zero_()
    return model


MODEL = model_of_the_guide()


def logged(*callbacks: Any) -> list[dict[str, Any]]:
    """Numbers of two evaluations."""
    trainer = quiet_trainer(*callbacks)
    loader = batch_of(INPUTS, LABELS)
    return [dict(trainer.validate(MODEL, loader, verbose=False)[0]) for _ in range(2)]


def test_a_step_logs_the_values_of_all_its_samples() -> None:
    first, second = logged()
    with torch.no_grad():
        states, _ = MODEL.rnn(INPUTS)
        predicted = MODEL.head(states[:, -1]).argmax(1)
    hidden = discretize(states, "sign").transpose(0, 1)
    expected = relay_information(LABELS, predicted, hidden[-1])
    assert expected > 0.1
    torch.testing.assert_close(torch.tensor(first["relay"]), expected.float())
    shares = relay_share(LABELS, predicted, hidden).share.max(1).values
    found = torch.tensor([first[f"largest_share/{step}"] for step in range(STEPS)])
    torch.testing.assert_close(found, shares.float())
    assert first == second


def test_our_callbacks_leave_the_values_alone() -> None:
    alone = logged()
    beside = logged(RelayInformationCallback(), KnockoutCallback())
    for here, there in zip(alone, beside, strict=True):
        assert {name: there[name] for name in here} == here
        assert len(there) > len(here)
