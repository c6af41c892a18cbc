"""Both callbacks on the collection: what is read is what the model was asked and answered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lightning_relay import (
    EveryUnit,
    KnockoutCallback,
    RandomSets,
    RelayInformationCallback,
    mutual_information,
)
from tests.support.batches import PAGE, SCRIPT, table
from tests.support.collection import COLLECTION, LENGTHS, Entry, Model
from tests.support.hooks import hook_count
from tests.support.pages import with_table
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from torch import Tensor


def entries(found: list[Entry]) -> Any:
    return pytest.mark.parametrize("entry", found, ids=lambda entry: entry.model.__name__)


ENTRIES = entries(COLLECTION)


def made(entry: Entry) -> Model:
    torch.manual_seed(2)
    model = entry.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.8)
    return model


def own_answers(model: Model) -> tuple[Tensor, Tensor]:
    """Labels and classes of all batches."""
    labels, classes = zip(*model.said, strict=True)
    return torch.cat(labels), torch.cat(classes)


@ENTRIES
def test_labels_and_answers_are_those_of_the_step(entry: Entry) -> None:
    model = made(entry)
    quiet_trainer().validate(model, entry.data, verbose=False)
    labels, classes = own_answers(model)
    relay = RelayInformationCallback(**entry.arguments)
    quiet_trainer(relay).validate(model, entry.data, verbose=False)
    (report,) = relay.reports
    assert (report.x_in, report.x_out) == (entry.x_in, entry.x_out)
    counted = labels != -100
    for name, found in report.mutual_information.items():
        asked = [labels[counted], classes[counted]]
        if name != "joint":
            asked = [part >> int(name.removeprefix("label_")) & 1 for part in asked]
        assert found == pytest.approx(float(mutual_information(*asked)))
    assert report.samples == len(LENGTHS)
    assert hook_count(model) == 0


@ENTRIES
def test_knock_outs_begin_with_the_answers_of_the_step(entry: Entry) -> None:
    model = made(entry)
    relay = RelayInformationCallback(**entry.arguments)
    knockouts = KnockoutCallback()
    quiet_trainer(relay, knockouts).validate(model, entry.data, verbose=False)
    labels, classes = own_answers(model)
    (found,) = knockouts.reports
    assert (found.x_in, found.x_out) == (entry.x_in, entry.x_out)
    counted = labels != -100
    assert found.accuracy is not None
    right = (labels == classes)[counted].double().mean()
    assert found.accuracy.baseline == pytest.approx(float(right))
    if found.concepts == ("joint",):
        expected = torch.zeros(found.confusion[0].shape, dtype=torch.int64)
        one = torch.ones((), dtype=torch.int64)
        expected.index_put_((labels[counted], classes[counted]), one, accumulate=True)
        assert (found.confusion[0] == expected.numpy()).all()
    assert found.confusion.shape[0] == 1 + len(found.sets)
    assert hook_count(model) == 0


@ENTRIES
def test_training_is_bit_for_bit_the_same(entry: Entry) -> None:
    states = []
    sets = EveryUnit if "calls" in entry.arguments else partial(RandomSets, n=8, n_bootstraps=0)
    for which in (None, EveryUnit(), sets()):
        torch.manual_seed(3)
        model = entry.model()
        callbacks = []
        if which is not None:
            callbacks = [
                RelayInformationCallback(**entry.arguments, on_error="raise"),
                KnockoutCallback(which, on_error="raise"),
            ]
        quiet_trainer(*callbacks, max_epochs=1).fit(model, entry.data, entry.data)
        states.append({**model.state_dict(), "stream": torch.get_rng_state()})
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    torch.testing.assert_close(states[2], states[0], rtol=0, atol=0)


@entries([one for one in COLLECTION if one.arguments])
def test_without_the_arguments_the_error_names_one_of_them(entry: Entry) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^({'|'.join(entry.arguments)}): "):
        quiet_trainer(RelayInformationCallback()).validate(made(entry), entry.data, verbose=False)


def test_most_models_need_no_argument_or_one() -> None:
    needed = [len(entry.arguments) for entry in COLLECTION]
    assert len(needed) == 27
    assert sum(number == 0 for number in needed) >= 15
    assert sum(number <= 1 for number in needed) >= 25


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text()
    assert with_table(page, SCRIPT, table()) == page
