"""The Relays tab in a real browser, of two recorded runs."""

from __future__ import annotations

import csv
import dataclasses
import re
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import numpy as np
import pytest
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    KnockoutCallback,
    RandomSets,
    RelayInformationCallback,
    RelayReport,
)
from tests.support.browser import (
    Tab,
    browser_or_skip,
    opened_browser,
    tensorboard,
    until,
    with_either_loader,
)
from tests.support.knockouts import small_knockouts
from tests.support.models import Classifier, loader
from tests.support.reports import small_report
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EPOCHS = 4
KNOCKED_OUT = (1, 3)
CONCEPTS = tuple(f"class_{label}" for label in range(4))
KNOCKOUTS = small_knockouts(concepts=CONCEPTS)
MAP = '[data-figure="relay_share"] .figure'


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("runs")
    whole = small_report(n_orders=4, n_splits=4, concepts="per_class")
    for number, run in enumerate(("first", "second")):
        place = directory / run / "relay_reports"
        place.mkdir(parents=True)
        for epoch in range(EPOCHS):
            saved(whole, epoch, 1 - 0.5 * number, place)
    knockouts = directory / "first" / "knockout_reports"
    knockouts.mkdir()
    for epoch in KNOCKED_OUT:
        report = dataclasses.replace(KNOCKOUTS, stage="validate", epoch=epoch)
        report.save(knockouts / f"knockout-validate-epoch={epoch}-step={epoch + 1}.npz")
    return directory


def saved(report: RelayReport, epoch: int, scale: float, directory: Path) -> None:
    """A report whose shares tell the run and the epoch."""
    layer = report["rnn.l0"]
    concepts = {
        name: dataclasses.replace(relay, share=scale * (epoch + 1) / EPOCHS * relay.share)
        for name, relay in layer.concepts.items()
    }
    changed = dataclasses.replace(
        report,
        layers={"rnn.l0": dataclasses.replace(layer, concepts=concepts)},
        stage="validate",
        epoch=epoch,
        global_step=epoch + 1,
    )
    changed.save(directory / f"relay-validate-epoch={epoch}-step={epoch + 1}.npz")


def share(logdir: Path, run: str, epoch: int, concept: str) -> Any:
    path = logdir / run / "relay_reports" / f"relay-validate-epoch={epoch}-step={epoch + 1}.npz"
    return RelayReport.load(path)["rnn.l0"][concept].share


@pytest.fixture(scope="module")
def address(logdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    browser_or_skip()
    with tensorboard(logdir, tmp_path_factory.mktemp("log") / "tensorboard.txt") as found:
        yield found


@pytest.fixture(scope="module")
def tab(address: str) -> Iterator[Tab]:
    with opened_browser() as found:
        yield found


def map_of(tab: Tab, number: int = 0) -> Any:
    """Shares that the map shows, as plotly has them, ``(step, unit)``."""
    return np.array(
        tab.run(
            "const map = [...document.querySelectorAll(arguments[0])][arguments[1]]"
            "._fullData.find((trace) => trace.type === 'heatmap');"
            "return [...map.z].map((row) => [...row]);",
            MAP,
            number,
        )
    ).T


def place_of(tab: Tab, step: int, unit: int) -> tuple[float, float]:
    """Where a cell of the map is, in pixels from its figure's corner."""
    x, y = tab.run(
        "const own = document.querySelector(arguments[0])._fullLayout;"
        "return [own.xaxis._offset + own.xaxis.c2p(arguments[1]),"
        " own.yaxis2._offset + own.yaxis2.c2p(arguments[2])]",
        MAP,
        step,
        unit,
    )
    return x, y


def colour_of(tab: Tab, step: int, unit: int) -> tuple[int, ...]:
    """Colour of a cell on the screen."""
    picture = Image.open(BytesIO(tab.find(MAP).screenshot_as_png)).convert("RGB")
    x, y = place_of(tab, step, unit)
    found: Any = picture.getpixel((round(x), round(y)))
    return tuple(found)


def expected_colour(tab: Tab, bits: float) -> np.ndarray:
    """Colour of a value on the map's own scale."""
    low, high, stops = tab.run(
        "const map = document.querySelector(arguments[0]).data"
        ".find((trace) => trace.type === 'heatmap');"
        "return [map.zmin, map.zmax, map.colorscale]",
        MAP,
    )
    places = [stop for stop, _ in stops]
    colours = np.array([[int(part) for part in re.findall(r"\d+", own)] for _, own in stops])
    at = (bits - low) / (high - low)
    return np.array([np.interp(at, places, colours[:, part]) for part in range(3)])


def test_the_map_shows_the_report(tab: Tab, address: str, logdir: Path) -> None:
    tab.open(address, whole=True)
    assert [tab.value(name) for name in ("run", "layer", "concept", "step")] == [
        "first", "rnn.l0", "class_0", "-1"
    ]  # fmt: skip
    expected = share(logdir, "first", EPOCHS - 1, "class_0")
    np.testing.assert_allclose(map_of(tab), expected, atol=1e-6)
    step, unit = np.unravel_index(np.argmax(expected), expected.shape)
    shown = colour_of(tab, int(step), int(unit))
    np.testing.assert_allclose(shown, expected_colour(tab, expected[step, unit]), atol=3)
    until(lambda: "rnn.l0 relays" in tab.find("#summaries").text, "no words")
    assert tab.trouble() == []


def test_keys_move_through_the_epochs(tab: Tab, address: str, logdir: Path) -> None:
    tab.open(address)
    slider = tab.find("#epoch")
    slider.send_keys("\ue012")  # left
    slider.send_keys("\ue012")
    tab.wait()
    assert tab.run("return arguments[0].getAttribute('aria-valuetext')", slider) == "epoch 1 of 3"
    np.testing.assert_allclose(map_of(tab), share(logdir, "first", 1, "class_0"), atol=1e-6)
    tab.find("#play").click()
    until(lambda: tab.find("#play").text == "Play", "it plays on")
    tab.wait()
    expected = share(logdir, "first", EPOCHS - 1, "class_0")
    np.testing.assert_allclose(map_of(tab), expected, atol=1e-6)
    assert tab.trouble() == []


def move_to(tab: Tab, step: int, unit: int) -> Any:
    """The mouse over a cell of the map."""
    from selenium.webdriver import ActionChains

    figure = tab.find(MAP)
    x, y = place_of(tab, step, unit)
    size = figure.size
    return ActionChains(tab.browser).move_to_element_with_offset(
        figure, x - size["width"] / 2, y - size["height"] / 2
    )


def data_of(tab: Tab, figure: str, field: str = "name") -> Any:
    """A field of all traces of a figure, which is scrolled to."""
    tab.run("document.querySelector(arguments[0]).scrollIntoView()", f'[data-figure="{figure}"]')
    drawn = (
        "return document.querySelector(arguments[0])?._fullData?.map((own) => own[arguments[1]])"
    )
    place = f'[data-figure="{figure}"]:not(.old) .figure'
    until(lambda: tab.run(f"{drawn} ?? false", place, field), f"{figure} is not drawn")
    tab.wait()
    return tab.run(drawn, place, field)


def test_a_click_chooses_the_step_and_the_unit(tab: Tab, address: str) -> None:
    tab.open(address)
    move_to(tab, 3, 2).click().perform()
    until(lambda: tab.value("step") == "3", "no step was chosen")
    tab.wait()
    assert tab.value("unit") == "2"
    words = "return document.querySelector('[data-figure=units_needed] .figure').ariaLabel"
    assert "at step 3" in tab.run(words)
    until(lambda: "Unit 2 has a share of" in tab.find("#summaries").text, "no words of the unit")
    shapes = "return document.querySelector(arguments[0]).layout.shapes.map(({y0, y1}) => [y0, y1])"
    assert [1.5, 2.5] in tab.run(shapes, MAP)
    assert "unit 2" in data_of(tab, "history")
    assert tab.trouble() == []


def test_the_mouse_reads_the_numbers_of_a_cell(tab: Tab, address: str, logdir: Path) -> None:
    tab.open(address)
    move_to(tab, 4, 1).perform()
    read = "return [...document.querySelectorAll(arguments[0])].map((own) => own.textContent)"
    hovered = f"{MAP} .hoverlayer text"
    found = until(lambda: tab.run(read, hovered), "nothing is read")
    value = share(logdir, "first", EPOCHS - 1, "class_0")[4, 1]
    assert found[0].startswith(f"step 4, unit 1share {value:.3f} ± ".replace("-", "\u2212"))


def test_the_history_has_the_shares_of_all_epochs(tab: Tab, address: str, logdir: Path) -> None:
    tab.open(address, "&p.lightning_relay.concept=class_3&p.lightning_relay.step=2")
    names = data_of(tab, "history")
    assert names[:3] == ["I(in; out)", "accuracy (right)", "I_R of all units"]
    values = tab.run(
        "return document.querySelector('[data-figure=history] .figure')._fullData"
        ".filter(({name}) => name.startsWith('unit')).map(({name, y}) => [name, [...y]])"
    )
    expected = [share(logdir, "first", epoch, "class_3")[2] for epoch in range(EPOCHS)]
    for name, found in values:
        unit = int(name.removeprefix("unit "))
        np.testing.assert_allclose(found, [own[unit] for own in expected], atol=1e-6)
    assert tab.trouble() == []


def test_knockouts_are_those_up_to_the_epoch(tab: Tab, address: str) -> None:
    title = "return document.querySelector('[data-figure=damage] .figure').ariaLabel"
    for epoch, shown in ((3, 3), (2, 1), (1, 1)):
        tab.open(address, f"&p.lightning_relay.epoch={epoch}")
        data_of(tab, "damage")
        assert f"rnn.l0: knock-outs, epoch {shown}: damage to accuracy of class_0" in tab.run(title)
    tab.choose("measure", "class 2")
    data_of(tab, "damage")
    until(lambda: "accuracy of class 2" in tab.run(title), "no damage to the class")
    tab.open(address, "&p.lightning_relay.epoch=0")
    until(lambda: "first knock-outs are those of epoch 1" in tab.find("#summaries").text, "no word")
    assert tab.run("return document.querySelector('[data-figure=damage]')") is None
    assert tab.trouble() == []


def test_the_numbers_of_a_figure_can_be_saved(tab: Tab, address: str, logdir: Path) -> None:
    tab.open(address, "&p.lightning_relay.epoch=1&p.lightning_relay.concept=class_1")
    link = tab.run("return document.querySelector('[data-figure=relay_share] .csv').href")
    with urlopen(link) as answer:
        assert answer.headers["Content-Disposition"] == "attachment; filename=relay_share.csv"
        rows = list(csv.DictReader(answer.read().decode().splitlines()))
    found = {
        (int(row["x"]), int(row["y"])): row["value"] for row in rows if row["trace"] == "share"
    }
    expected = share(logdir, "first", 1, "class_1")
    assert {place: float(value) for place, value in found.items()} == {
        (step, unit): expected[step, unit] for step, unit in np.ndindex(*expected.shape)
    }


def test_every_choice_and_figure_has_a_label(tab: Tab, address: str) -> None:
    tab.open(address)
    unnamed = tab.run(
        "return [...document.querySelectorAll('select, input, button, nav, main section, .figure')]"
        ".filter((own) => !own.closest('[hidden], .modebar, .updatemenu-container'))"
        ".filter((own) => !(own.labels?.length || own.ariaLabel || own.textContent"
        " || own.getAttribute('aria-labelledby'))).map((own) => own.outerHTML)"
    )
    assert unnamed == []
    questions = tab.run("return [...document.querySelectorAll('#questions button')].length")
    assert questions == tab.run("return document.querySelectorAll('main section').length")


def test_a_link_shows_two_runs_on_one_scale(tab: Tab, address: str, logdir: Path) -> None:
    chosen = {"run": "second", "beside": "first", "concept": "class_2", "epoch": "2", "step": "4"}
    parts = [f"p.lightning_relay.{name}={value}" for name, value in chosen.items()]
    tab.open(address, f"&{'&'.join(parts)}", whole=True)
    for number, run in enumerate(("second", "first")):
        found = map_of(tab, number)
        np.testing.assert_allclose(found, share(logdir, run, 2, "class_2"), atol=1e-6)
    scales = tab.run(
        "return [...document.querySelectorAll(arguments[0])].map(({data}) => data.find((trace) =>"
        " trace.type === 'heatmap')).map(({zmin, zmax}) => [zmin, zmax])",
        MAP,
    )
    assert scales[0] == scales[1]
    link = tab.run("return window.parent.location.hash")
    assert all(part in link for part in parts)
    assert tab.trouble() == []


def test_a_link_that_is_pasted_into_the_address_is_followed(tab: Tab, address: str) -> None:
    tab.open(address, "&p.lightning_relay.run=second&p.lightning_relay.unit=3", whole=True)
    tab.run(
        "window.parent.location.hash ="
        " 'lightning_relay&p.lightning_relay.concept=class_2&p.lightning_relay.step=4'"
    )
    until(lambda: tab.value("concept") == "class_2", "the link is not followed")
    tab.wait()
    assert [tab.value(name) for name in ("run", "step", "unit")] == ["first", "4", ""]
    assert tab.trouble() == []


def test_a_link_to_what_the_run_does_not_have_says_what_is_shown(tab: Tab, address: str) -> None:
    tab.open(address, "&p.lightning_relay.concept=odd&p.lightning_relay.step=17")
    words = (
        "This run does not have what is chosen: concept odd, but class_0; step 17, but its last is "
        "shown."
    )
    until(lambda: words in tab.find("#summaries").text, "no word of what is shown")
    assert words in tab.find('[data-figure="relay_share"] .note').text
    tab.choose("concept", "class_1")
    until(lambda: words not in tab.find("#summaries").text, "it is still said")
    assert tab.trouble() == []


def test_a_link_to_a_run_that_is_not_there_says_so(tab: Tab, address: str) -> None:
    tab.open(address, "&p.lightning_relay.run=third&p.lightning_relay.step=2", state="error")
    assert tab.find("#status").text == "There are no reports of the run third; choose another one."
    tab.choose("run", "second")
    assert tab.value("step") == "2"
    assert tab.trouble() == []


def test_a_run_without_the_stage_says_so(tab: Tab, address: str, logdir: Path) -> None:
    directory = logdir / "second" / "relay_reports"
    tested = directory / "relay-test-epoch=3-step=4.npz"
    tested.write_bytes((directory / "relay-validate-epoch=3-step=4.npz").read_bytes())
    try:
        chosen = {"run": "second", "beside": "first", "stage": "test"}
        parts = [f"p.lightning_relay.{name}={value}" for name, value in chosen.items()]
        tab.open(address, f"&{'&'.join(parts)}")
        notes = "return [...document.querySelectorAll('[data-figure=relay_share] .note')]"
        words = tab.run(f"{notes}.map((own) => own.textContent)")
        assert words == ["", "This run has no such report at this stage."]
        assert tab.trouble() == []
    finally:
        tested.unlink()


def test_knockouts_of_another_stage_are_pointed_at(tab: Tab, address: str, logdir: Path) -> None:
    directory = logdir / "second" / "knockout_reports"
    directory.mkdir()
    path = directory / "knockout-test-epoch=3-step=4.npz"
    KNOCKOUTS.save(path)
    try:
        tab.open(address, "&p.lightning_relay.run=second")
        words = "Knock-outs were measured at the stage test; choose it above."
        until(lambda: words in tab.find("#summaries").text, "no word of the other stage")
        tab.choose("stage", "test")
        words = "Relays were measured at the stage validation; choose it above."
        until(lambda: words in tab.find("#summaries").text, "no word of the other stage")
        assert tab.trouble() == []
    finally:
        path.unlink()
        directory.rmdir()


def test_the_dark_theme_is_followed(tab: Tab, address: str) -> None:
    tab.open(address, whole=True)
    background = "return getComputedStyle(document.body).backgroundColor"
    assert tab.run(background) == "rgb(255, 255, 255)"
    toggle = "window.parent.document.body.classList.toggle('dark-mode')"
    tab.run(toggle)
    until(lambda: tab.run(background) == "rgb(48, 48, 48)", "it stays light")
    tab.wait()
    drawn = "return document.querySelector(arguments[0])._fullLayout.font.color"
    until(lambda: tab.run(drawn, MAP) == "#eeeeee", "figures stay light")
    tab.run(toggle)
    assert tab.trouble() == []


def test_a_damaged_report_is_said_and_the_next_is_shown(
    tab: Tab, address: str, logdir: Path
) -> None:
    path = logdir / "first" / "relay_reports" / "relay-validate-epoch=0-step=1.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    try:
        tab.open(address, "&p.lightning_relay.epoch=0", state="error")
        assert "holds no report, or a damaged one" in tab.find("#status").text
        tab.find("#epoch").send_keys("\ue014")  # right
        tab.wait()
        assert tab.find("#status").text == ""
        np.testing.assert_allclose(map_of(tab), share(logdir, "first", 1, "class_0"), atol=1e-6)
    finally:
        path.write_bytes(whole)
    # The browser itself notes the refused request.
    assert all("422" in entry for entry in tab.trouble())


def test_without_reports_the_tab_says_what_to_do(tab: Tab, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    with tensorboard(logs, tmp_path / "log.txt") as address:
        tab.open(address, state="empty")
        assert f"There are no saved reports under {logs}" in tab.find("#status").text
        # The page leaves before its server does, or it asks in vain.
        tab.browser.get("about:blank")


class TwoLayers(Classifier):
    """A GRU of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, 6, num_layers=2, batch_first=True)


KNOCKOUTS_OF: dict[str, Any] = {
    "sets": RandomSets(n=24, n_bootstraps=0),
    "units": EveryUnit(),
    "steps": EveryUnit(steps="each"),
    "orders": AlongOrder(),
}
SECTIONS = {
    "relay_share", "units_needed", "relay_transfer", "history", "latent", "layers", "greedy_order"
}  # fmt: skip
OF_SETS = {"damage", "damage_map"}


@pytest.mark.parametrize(
    ("prefix", "own"),
    [
        ("sets", {"prediction", "damage_share"}),
        ("units", {"agreement"}),
        ("steps", {"step_damage"}),
        ("orders", {"deletion"}),
    ],
)
def test_every_section_of_a_trained_model_is_drawn_or_says_why_not(
    tab: Tab, trained_run: str, prefix: str, own: set[str]
) -> None:
    tab.open(trained_run, f"&p.lightning_relay.knockouts={prefix}", whole=True)
    names = tab.run(
        "return [...document.querySelectorAll('main section')].map((own) => own.dataset.figure)"
    )
    assert set(names) == SECTIONS | OF_SETS | own
    others = ", ".join(sorted(set(KNOCKOUTS_OF) - {prefix}))
    words = f"These are the knock-outs of {prefix}; there are also those of {others}."
    until(lambda: words in tab.find("#summaries").text, "no word of the other callbacks")
    for name in names:
        assert data_of(tab, name), name
        words = tab.run("return document.querySelector(arguments[0]).ariaLabel", drawn_in(name))
        assert ": " in words
    assert tab.trouble() == []


def drawn_in(name: str) -> str:
    return f'[data-figure="{name}"] .figure'


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a TensorBoard with the reports of a model that was trained."""
    browser_or_skip()
    logs = tmp_path_factory.mktemp("trained")
    relays = RelayInformationCallback(layers="all", latent=True)
    knockouts = [KnockoutCallback(which, prefix=name) for name, which in KNOCKOUTS_OF.items()]
    seed_everything(0)
    trainer = quiet_trainer(relays, *knockouts, max_epochs=2, logger=CSVLogger(logs, name=None))
    trainer.fit(TwoLayers(), loader(), loader())
    with tensorboard(logs, logs / "log.txt") as found:
        yield found


@with_either_loader
def test_a_link_is_followed_with_either_loader(
    load_fast: str, tab: Tab, logdir: Path, tmp_path: Path
) -> None:
    chosen = "&p.lightning_relay.run=second&p.lightning_relay.epoch=1"
    with tensorboard(logdir, tmp_path / "log.txt", load_fast=load_fast) as address:
        tab.open(address, chosen, whole=True)
        np.testing.assert_allclose(map_of(tab), share(logdir, "second", 1, "class_0"), atol=1e-6)
        assert tab.trouble() == []
        # As above; this page fetches the epochs beside the chosen one.
        tab.browser.get("about:blank")
