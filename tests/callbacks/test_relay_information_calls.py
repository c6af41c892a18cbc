"""Modules that a step calls several times: which calls are analysed, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    HiddenStates,
    KnockoutCallback,
    LatentMeasure,
    RandomOrders,
    RandomSets,
    RelayInformationCallback,
    RelayReport,
    TopUnits,
    latent_structure,
    relay_report,
)
from tests.support.models import (
    CLASSES,
    STEPS,
    Classifier,
    Decoder,
    Siamese,
    SiameseCell,
    Stepped,
    TwoModules,
    loader,
)
from tests.support.reports import assert_equal
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer


def validated(model: Classifier, data: Any = None, **options: Any) -> RelayReport:
    callback = RelayInformationCallback(**options)
    quiet_trainer(callback).validate(model, data or loader(), verbose=False)
    return callback.reports[-1]


@torch.no_grad()
def by_hand(model: Classifier) -> dict[str, list[Tensor]]:
    """States ``(batch, step, unit)`` of each call, by layer key."""
    rnn: Any = copy.deepcopy(model.eval().rnn)
    if isinstance(model, Siamese):
        return {"rnn.l0": [rnn(x)[0] for x in (INPUTS, INPUTS.flip(1))]}
    if isinstance(model, SiameseCell):
        found = []
        for x in (INPUTS, INPUTS[:, : STEPS // 2]):
            states = [torch.zeros(len(x), 6)]
            for inputs in x.unbind(1):
                states.append(rnn.cell(inputs, states[-1]))
            found.append(torch.stack(states[1:], 1))
        return {"rnn.cell.l0": found}
    hidden, cells, state = [], [], None
    for inputs in INPUTS.split(1, dim=1):
        # the mean is that of the batch
        shift = torch.cat([part.mean().expand(len(part)) for part in inputs.split(16)])
        output, (h, c) = rnn(inputs, state)
        state = h + 0.1 * shift[None, :, None], c
        hidden.append(output)
        cells.append(c[0].unsqueeze(1))
    return {"rnn.l0": hidden, "rnn.l0.cell": cells}


def chosen(parts: list[Tensor], calls: Any) -> HiddenStates:
    index = {"first": 0, "last": -1}.get(calls, calls)
    values = torch.cat(parts, 1) if calls == "joined" else parts[index]
    return HiddenStates(values, torch.ones(values.shape[:2], dtype=torch.bool))


def answers_of(model: Classifier) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x) for x in INPUTS.split(16)]).argmax(1)


@pytest.mark.parametrize("kind", [Siamese, SiameseCell, Decoder])
@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ("first", "first of {}"),
        ("last", "last of {}"),
        ("joined", "{} joined"),
        (0, "index 0 of {}"),
        (1, "index 1 of {}"),
        (-2, "index -2 of {}"),
    ],
)
def test_the_chosen_calls_are_analysed(kind: type[Classifier], calls: Any, words: str) -> None:
    torch.manual_seed(0)
    model = kind()
    report = validated(model, states=("hidden", "cell"), calls=calls)
    states = {key: chosen(parts, calls) for key, parts in by_hand(model).items()}
    expected = relay_report(states, LABELS, answers_of(model), num_classes=CLASSES)
    assert report.layers.keys() == expected.layers.keys()
    assert_equal(report.layers, expected.layers, atol=1e-12)
    many = "6 calls" if kind is Decoder else "2 calls"
    name = "rnn.cell" if kind is SiameseCell else "rnn"
    assert report.calls == {name: words.format(many)}


def test_calls_that_continue_count_as_one() -> None:
    class InPiecesTwice(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            for own in (x, x.flip(1)):
                state = None
                for piece in own.split(2, dim=1):
                    output, state = self.rnn(piece, state)
            scores: Tensor = self.head(output[:, -1])
            return scores

    torch.manual_seed(0)
    pieces = InPiecesTwice()
    torch.manual_seed(0)
    whole = Siamese()
    for calls in ("last", "joined"):
        found = validated(pieces, calls=calls, prediction=lambda _: LABELS[:16])
        expected = validated(whole, calls=calls, prediction=lambda _: LABELS[:16])
        assert found.calls == expected.calls
        assert_equal(found.layers, expected.layers)


def test_the_choice_is_said_and_kept(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        report = validated(Siamese(), calls={"rnn": "last"})
    assert (
        "Relay information: 'rnn' is called several times in a step; analysed: last of 2 calls."
        in caplog.text + capsys.readouterr().err
    )
    assert str(report).splitlines()[2] == "  calls in a step: last of 2 calls"
    report.save(tmp_path / "report.npz")
    assert RelayReport.load(tmp_path / "report.npz").calls == {"rnn": "last of 2 calls"}


def test_a_choice_where_there_is_one_call_changes_nothing() -> None:
    torch.manual_seed(0)
    model = TwoModules()
    for calls in ("first", "last", "joined", 0, -1, {"encoder": "joined"}):
        report = validated(model, calls=calls)
        assert report.calls == {}
        assert_equal(report.layers, validated(model).layers)


def test_modules_may_have_choices_of_their_own() -> None:
    class Attending(TwoModules):
        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.encoder(x)
            other, _ = self.encoder(x.flip(1))
            h = other[:, -1:].transpose(0, 1).contiguous()
            for _ in range(3):
                output, h = self.rnn(states[:, -1:], h)
                h = h + states.mean(1)
            scores: Tensor = self.head(output[:, -1])
            return scores

    calls = {"encoder": 1, "rnn": "joined"}
    report = validated(Attending(), calls=calls)
    assert report.calls == {"encoder": "index 1 of 2 calls", "rnn": "3 calls joined"}
    assert {key: len(layer.time_steps) for key, layer in report.layers.items()} == {
        "encoder.l0": STEPS,
        "rnn.l0": 3,
    }
    with pytest.raises(ValueError, match="calls: 'rnn' was called 3 times in one step"):
        validated(Attending(), calls={"encoder": 1})
    with pytest.raises(
        ValueError, match=r"^calls: no recorded module 'decoder'; it takes 'rnn', 'encoder'$"
    ):
        validated(Attending(), calls={"decoder": 1})


def test_numbers_of_calls_may_differ_between_steps() -> None:
    class Sometimes(Siamese):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.rnn(batch[0])
            if batch_idx:
                self.rnn(batch[0])
            self.head(self.rnn(batch[0])[0][:, -1])

    assert validated(Sometimes(), calls="last").calls == {"rnn": "last of 2 to 3 calls"}


class TwoPacked(Classifier):
    """Packs the sequence, and what is left of it, by lengths beside it."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        for own in (lengths, 1 + STEPS - lengths):
            packed = pack_padded_sequence(x, own, batch_first=True, enforce_sorted=False)
            _, final = self.rnn(packed)
        scores: Tensor = self.head(final[-1])
        return scores

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0], batch[1])


def test_packed_sequences_are_chosen_and_joined_without_their_padding() -> None:
    lengths = torch.arange(48) % STEPS + 1
    data = batch_of(INPUTS, lengths, LABELS)
    torch.manual_seed(0)
    model = TwoPacked()
    with torch.no_grad():
        whole, _ = model.eval().rnn(INPUTS)
    states = torch.stack(
        [
            torch.cat([own[:length], own[: 1 + STEPS - length]])
            for own, length in zip(whole, lengths.tolist(), strict=True)
        ]
    )
    with torch.no_grad():
        answers = model(INPUTS, lengths).argmax(1)
    valid = torch.ones(states.shape[:2], dtype=torch.bool)
    expected = relay_report(
        {"rnn.l0": HiddenStates(states, valid)}, LABELS, answers, num_classes=CLASSES
    )
    report = validated(model, data, target=2, calls="joined")
    assert_equal(report.layers, expected.layers, atol=1e-12)
    first = validated(model, data, target=2, calls="first")["rnn.l0"]
    assert first.samples.tolist() == [48, 40, 32, 24, 16, 8, 48]
    last = validated(model, data, target=2, calls="last", lengths=lambda batch: 7 - batch[1])
    assert last["rnn.l0"].samples.tolist() == [48, 40, 32, 24, 16, 8, 48]
    with pytest.raises(ValueError, match=r"lengths: the packed sequences given to 'rnn.l0' have"):
        validated(model, data, target=2, calls="last", lengths=1)


class WithLengths(Classifier):
    """Is given lengths, and reads only the sequences."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0])


def test_lengths_are_those_of_the_joined_sequence() -> None:
    class Padded(WithLengths, Decoder):
        pass

    lengths = torch.arange(48) % STEPS + 1
    data = batch_of(INPUTS, lengths, LABELS)
    report = validated(Padded(), data, target=2, lengths=1, calls="joined")
    assert report["rnn.l0"].samples.tolist() == [48, 40, 32, 24, 16, 8, 48]


class TwoSizes(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        self.rnn(torch.cat([x, x]))
        return super().forward(x)


class Both(Siamese):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, 3, bidirectional=True, batch_first=True)


class Mixed(Siamese):
    def forward(self, x: Tensor) -> Tensor:
        self.rnn(pack_padded_sequence(x, [STEPS] * len(x), batch_first=True))
        return Classifier.forward(self, x)


@pytest.mark.parametrize(
    ("kind", "calls", "message"),
    [
        (
            Siamese,
            None,
            r"^calls: 'rnn' was called 2 times in one step, with shapes \(batch, steps\): 'rnn' "
            r"\(16, 6\), 'rnn#2' \(16, 6\)\. Say with calls= which are analysed; it takes 'first', "
            r"'last', 'joined' \(all calls as one sequence\), the index of a call such as 1 or -2, "
            r"or a mapping from module names to these, such as {'rnn': 'last'}\. Calls that each "
            r"continue from the state that the call before returned count as one, and so do the "
            r"steps of a cell\. A callback that calls the model must stand after the relay callb",
        ),
        (SiameseCell, None, r"'rnn\.cell' \(16, 6\), 'rnn\.cell#2' \(16, 3\)\. Say with calls="),
        (Decoder, None, r"'rnn' \(16, 1\), 'rnn#2' \(16, 1\), .*, 'rnn#6' \(16, 1\)\. Say with"),
        (
            Siamese,
            2,
            r"^calls: got 2, and there is no such call among 'rnn' \(16, 6\), 'rnn#2' \(16, 6\); "
            r"it takes indices from -2 to 1$",
        ),
        (Siamese, -3, "^calls: got -3, and there is no such call among"),
        (
            TwoSizes,
            "joined",
            r"^calls: the calls of 'rnn' cannot be joined, because they have different numbers of "
            r"sequences: 'rnn' \(32, 6\), 'rnn#2' \(16, 6\)\. Choose one of them$",
        ),
        (TwoSizes, "first", "^target: got 16 labels for 32 sequences of 'rnn.l0'"),
        (Both, "joined", "cannot be joined, because its backward direction begins anew in each"),
        (Mixed, "joined", "cannot be joined, because some are of packed sequences and some are"),
    ],
)
def test_what_cannot_be_chosen_is_refused(kind: type[Classifier], calls: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validated(kind(), calls=calls)


def test_many_calls_are_not_all_listed() -> None:
    class Long(Decoder):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.repeat(1, 2, 1))

    with pytest.raises(ValueError, match=r"'rnn#4' \(16, 1\), …, 'rnn#12' \(16, 1\)\. Say with"):
        validated(Long())


def test_calls_of_other_sizes_and_directions_may_be_chosen() -> None:
    assert validated(TwoSizes(), calls="last").calls == {"rnn": "last of 2 calls"}
    assert sorted(validated(Both(), calls="last").layers) == ["rnn.l0", "rnn.l0_reverse"]


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        ("all", ValueError),
        (True, TypeError),
        (1.0, TypeError),
        (["first"], TypeError),
        ({"rnn": "all"}, ValueError),
        ({"rnn": None}, TypeError),
    ],
)
def test_the_choice_is_checked_in_the_constructor(calls: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^calls: got .*; it takes 'first', 'last', 'joined' \(all ca"):
        RelayInformationCallback(calls=calls)


@pytest.mark.parametrize("inputs", ["zero", "mean"])
@pytest.mark.parametrize("calls", ["last", "joined"])
@pytest.mark.parametrize("kind", [Siamese, SiameseCell, Decoder])
def test_the_latent_structure_is_that_of_the_chosen_calls(
    kind: type[Classifier], calls: Any, inputs: Any
) -> None:
    torch.manual_seed(0)
    model = kind()
    report = validated(model, calls=calls, latent=LatentMeasure(inputs=inputs))
    states = {key: chosen(parts, calls) for key, parts in by_hand(model).items()}
    (key,) = report.layers
    found = report[key].latent
    assert found is not None
    seen = {Siamese: INPUTS, Decoder: INPUTS}.get(
        kind, torch.cat([INPUTS, INPUTS[:, : STEPS // 2]], 1)
    )
    means = {key.removesuffix(".l0"): seen.mean((0, 1))} if inputs == "mean" else None
    expected = latent_structure(states, LABELS, model=model, inputs=means)[key]
    assert_equal(found.trajectories, expected.trajectories, atol=1e-6)
    assert_equal(found.speed, expected.speed, atol=1e-6)
    if calls == "last" and inputs == "mean":
        assert found.attractors is None
        assert "one of them is analysed" in found.no_attractors
    else:
        assert found.attractors is not None
        assert expected.attractors is not None
        assert_equal(found.attractors.states, expected.attractors.states, atol=1e-6)


class Damped(Classifier):
    """An LSTM called once for every step; its state is damped in between."""

    cell = nn.LSTM

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for inputs in x.split(1, dim=1):
            output, (h, c) = self.rnn(inputs, state)
            state = 0.9 * h, c
        scores: Tensor = self.head(output[:, -1])
        return scores


class PaddedDamped(WithLengths, Damped):
    pass


class PaddedStepped(WithLengths, Stepped):
    pass


@pytest.mark.parametrize("kind", [PaddedDamped, PaddedStepped])
def test_padding_is_no_input_of_joined_calls(kind: type[Classifier]) -> None:
    lengths = torch.arange(48) % STEPS + 1
    inside = torch.arange(STEPS) < lengths[:, None]
    found = []
    for padding in (0.0, 100.0):
        torch.manual_seed(0)
        report = validated(
            kind(),
            batch_of(INPUTS.masked_fill(~inside[..., None], padding), lengths, LABELS),
            target=2,
            lengths=1,
            prediction=lambda _: LABELS[:16],
            calls="joined",
            latent=LatentMeasure(inputs="mean"),
        )
        (layer,) = report.layers.values()
        assert layer.latent is not None
        assert layer.latent.attractors is not None
        found.append(layer.latent)
    assert_equal(found[0], found[1], atol=1e-9)


@pytest.mark.parametrize("calls", ["last", "joined"])
@pytest.mark.parametrize("kind", [Siamese, Decoder])
@pytest.mark.parametrize(
    ("which", "message"),
    [
        (RandomSets(n=8), r"was given \d batches of sequences in one step; RandomSets takes one"),
        (RandomOrders(n=2), r"was given \d batches of sequences in one step; RandomOrders takes"),
        (
            TopUnits(2),
            r"^steps: got -1, which TopUnits counts in every call of 'rnn.l0', and the relay "
            r"report is of other steps \(calls in a step: .*\)\. Take TopUnits\(steps=None\), whi",
        ),
        (AlongOrder(), r"^steps: got -1, which AlongOrder counts in every call of 'rnn.l0'"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_knock_outs_at_other_steps_than_those_analysed_are_refused(
    kind: type[Classifier], calls: Any, which: Any, message: str
) -> None:
    relay = RelayInformationCallback(calls=calls)
    with pytest.raises(ValueError, match=message):
        quiet_trainer(relay, KnockoutCallback(which)).fit(kind(), loader(), loader())
    given = KnockoutCallback(which, relay=validated(kind(), calls=calls))
    with pytest.raises(ValueError, match=message):
        quiet_trainer(given).fit(kind(), loader(), loader())


def test_knock_outs_at_all_steps_of_all_calls_follow_the_report() -> None:
    relay = RelayInformationCallback(calls="joined")
    callbacks = [
        KnockoutCallback(TopUnits(2, steps=None), prefix="top"),
        KnockoutCallback(AlongOrder(steps=None), prefix="along"),
        KnockoutCallback(EveryUnit(), prefix="each"),
        KnockoutCallback(EveryUnit(steps=0), prefix="first"),
    ]
    quiet_trainer(relay, *callbacks).fit(Decoder(), loader(), loader())
    _, _, each, first = (callback.reports[-1] for callback in callbacks)
    assert [len(callback.reports) for callback in callbacks] == [1, 1, 2, 2]
    assert [agreement.layer for agreement in each.agreement] == ["rnn.l0"]
    assert first.agreement == ()  # step 0 of every call is every step
    damage = [report.accuracy.damage for report in (each, first)]
    assert not np.isnan(damage).any()
