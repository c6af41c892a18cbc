"""Geometry against NumPy, and attractors of modules whose dynamics are built by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_relay import HiddenStateRecorder, HiddenStates, LatentMeasure, latent_structure
from lightning_relay.latent.table import attractor_table

if TYPE_CHECKING:
    from lightning_relay.latent.structure import Attractors, LatentStructure


def states_of(
    batch: int = 60, steps: int = 5, units: int = 4, *, padded: bool = False
) -> tuple[HiddenStates, Tensor]:
    """Correlated states that drift, and a label that they depend on."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(batch) % 3
    mix = torch.randn(units, units, generator=generator)
    values = torch.randn(batch, steps, units, generator=generator) @ mix + 5
    values += labels[:, None, None] * torch.randn(units, generator=generator)
    values *= torch.linspace(1, 2, steps)[:, None]
    if not padded:
        return HiddenStates(values, torch.ones(batch, steps, dtype=torch.bool)), labels
    lengths = torch.randint(2, steps + 1, (batch,), generator=generator)
    lengths[0] = steps
    return HiddenStates.of_lengths(values, lengths), labels


def structure(*args: Any, **options: Any) -> LatentStructure:
    (found,) = latent_structure(*args, **options).values()
    return found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("inputs_end", [None, 1])
def test_components_are_those_of_the_singular_value_decomposition(
    padded: bool, inputs_end: int | None
) -> None:
    states, labels = states_of(padded=padded)
    found = structure({"rnn.l0": states}, labels, inputs_end=inputs_end)
    first = inputs_end or 0
    rows = states.values[:, first:][states.valid[:, first:]].double().numpy()
    centred = rows - rows.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.variance, variances.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.explained, variances / variances.sum(), atol=1e-12)
    np.testing.assert_allclose(abs((found.components * axes[:3]).sum(1)), 1, atol=1e-9)
    largest = np.abs(found.components).argmax(1)
    assert (found.components[range(3), largest] > 0).all()
    dimension = variances.sum() ** 2 / (variances**2).sum()
    assert found.dimension == pytest.approx(dimension)


@pytest.mark.parametrize("padded", [False, True])
def test_means_speeds_and_variances_are_those_of_a_plain_loop(padded: bool) -> None:
    states, labels = states_of(padded=padded)
    found = structure({"rnn.l0": states}, labels)
    assert found.time_steps.tolist() == [0, 1, 2, 3, 4] + [-1] * padded
    values, valid = states.values.double().numpy(), states.valid.numpy()
    for place in range(5):
        own = [values[row, place] for row in range(60) if valid[row, place]]
        of_class = [
            np.array(
                [values[row, place] for row in range(60) if valid[row, place] and labels[row] == k]
            )
            for k in range(3)
        ]
        assert found.samples[:, place].tolist() == [len(part) for part in of_class]
        for k, part in enumerate(of_class):
            expected = (part.mean(0) - found.mean) @ found.components.T
            np.testing.assert_allclose(found.trajectories[k, place], expected, atol=1e-12)
        inside = sum(((part - part.mean(0)) ** 2).sum() for part in of_class) / (len(own) - 3)
        apart = sum(len(part) * ((part.mean(0) - np.mean(own, 0)) ** 2).sum() for part in of_class)
        np.testing.assert_allclose(found.within[place], inside, rtol=1e-12)
        np.testing.assert_allclose(found.between[place], (apart - 2 * inside) / len(own), atol=1e-9)
        if place:
            moved = [
                np.linalg.norm(values[row, place] - values[row, place - 1])
                for row in range(60)
                if valid[row, place]
            ]
            np.testing.assert_allclose(found.speed[place], np.mean(moved), rtol=1e-12)
    assert np.isnan(found.speed[0])
    assert np.isnan(found.speed[5:]).all()


def test_labels_that_tell_nothing_have_no_separation_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    separations = []
    for _ in range(200):
        values = torch.randn(24, 1, 3, generator=generator)
        states = HiddenStates(values, torch.ones(24, 1, dtype=torch.bool))
        labels = torch.randint(6, (24,), generator=generator)
        separations.append(float(structure({"rnn.l0": states}, labels).separation[0]))
    assert abs(np.mean(separations)) < 0.01 < np.std(separations)


def test_a_step_is_fitted_only_if_all_sequences_had_seen_all_inputs() -> None:
    states, labels = states_of(padded=True)
    found = structure({"rnn.l0": states}, labels, inputs_end=-1)
    assert found.inputs_ended.tolist() == [False, False, False, False, True, True]
    assert structure({"rnn.l0": states}, labels, inputs_end=0).inputs_ended.all()
    last = states.values[states.lengths == 5, 4].double().numpy()
    np.testing.assert_allclose(found.mean, last.mean(0))


def test_a_backward_layer_moves_towards_the_first_step() -> None:
    states, labels = states_of()
    forward = structure({"rnn.l0": states}, labels)
    backward = structure({"rnn.l0_reverse": states}, labels)
    np.testing.assert_allclose(backward.speed[:-1], forward.speed[1:])
    assert np.isnan(backward.speed[-1])


# Dynamics built by hand --------------------------------------------------------------------------


def rnn_of(weights: Tensor, nonlinearity: str = "tanh") -> nn.RNN:
    """An RNN without biases that adds its input to its state."""
    units = len(weights)
    module = nn.RNN(units, units, nonlinearity=nonlinearity, bias=False, batch_first=True)
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.eye(units))
        module.weight_hh_l0.copy_(weights)
    return module


def attractors(
    module: nn.Module, inputs: Tensor, labels: Tensor, measure: LatentMeasure | None = None
) -> Attractors:
    with torch.no_grad(), HiddenStateRecorder(module, states=("hidden", "cell")) as recorder:
        module(inputs)
    found = latent_structure(recorder.states, labels, model=module, inputs_end=0, measure=measure)
    some = found["l0"].attractors
    assert some is not None
    return some


def pulses(units: int, steps: int = 6, batch: int = 100) -> Tensor:
    """Inputs at the first step only."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.zeros(batch, steps, units)
    inputs[:, 0] = torch.randn(batch, units, generator=generator)
    return inputs


def test_a_bistable_unit_has_two_fixed_points_that_tell_one_bit() -> None:
    inputs = pulses(1)
    labels = (inputs[:, 0, 0] > 0).long()
    found = attractors(rnn_of(torch.tensor([[2.0]])), inputs, labels)
    assert found.period.tolist() == [1, 1]
    assert not found.continuous.any()
    (root,) = {round(abs(state), 5) for state in found.states[:, 0].tolist()}
    assert root == pytest.approx(np.tanh(2 * root), abs=1e-5)
    np.testing.assert_allclose(found.largest, 2 * (1 - root**2), atol=1e-4)
    high = found.states[:, 0] > 0
    assert found.starts == 512
    assert (found.basins[high, 0], found.basins[~high, 1]) == (0, 0)
    assert found.settled == 1
    share = labels.double().mean()
    entropy = float(-(share * share.log2() + (1 - share) * (1 - share).log2()))
    assert found.label_bits == pytest.approx(found.input_bits, abs=1e-2)
    assert found.label_bits == pytest.approx(entropy, abs=0.05)


def test_three_units_in_a_ring_have_cycles_of_three_steps() -> None:
    module = rnn_of(2 * torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    inputs = pulses(3)
    found = attractors(module, inputs, torch.zeros(100, dtype=torch.int64))
    assert sorted(found.period.tolist()) == [1, 1, 3, 3]
    root = float(np.abs(found.states).max())
    assert root == pytest.approx(np.tanh(2 * root), abs=1e-5)
    # Over three steps each unit has gone through three saturated steps.
    for period, largest in zip(found.period, found.largest, strict=True):
        assert largest == pytest.approx((2 * (1 - root**2)) ** period, abs=1e-4)
    for number in np.flatnonzero(found.period == 3):
        phases = found.states[found.attractor == number]
        np.testing.assert_allclose(np.roll(phases, 1, axis=1), np.roll(phases, -1, 0), atol=1e-4)
        assert found.radius[number] > 0.5
    assert found.label_bits == pytest.approx(0, abs=1e-9)


def test_a_unit_that_adds_up_is_a_line_attractor() -> None:
    module = rnn_of(torch.tensor([[1.0, 0], [0, 0.5]]), "relu")
    inputs = pulses(2).abs() + 0.2
    inputs[:, 1:] = 0
    found = attractors(module, inputs, torch.zeros(100, dtype=torch.int64))
    assert found.continuous.tolist() == [True]
    assert found.period.tolist() == [1]
    np.testing.assert_allclose(found.eigenvalues, [[1, 0.5]], atol=1e-9)
    assert len(found.states) == 32
    assert float(np.ptp(found.states[:, 0])) > 1
    assert float(np.abs(found.states[:, 1]).max()) < 1e-3


def test_a_cell_state_with_open_forget_gates_is_a_line_attractor() -> None:
    module = nn.LSTM(1, 1, batch_first=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.bias_ih_l0.copy_(torch.tensor([-50.0, 50, 0, 50]))
        module.weight_ih_l0.copy_(torch.tensor([[100.0], [0], [1], [0]]))
    inputs = pulses(1).abs() + 1
    inputs[:, 1:] = 0
    found = attractors(module, inputs, torch.zeros(100, dtype=torch.int64))
    assert found.continuous.tolist() == [True]
    np.testing.assert_allclose(found.largest, [1], atol=1e-9)


def test_a_cell_in_a_loop_settles_like_a_fused_module() -> None:
    module = nn.GRU(1, 4, batch_first=True)
    cell = nn.GRUCell(1, 4)
    with torch.no_grad():
        module.weight_hh_l0.mul_(4)
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    cell.load_state_dict({name: getattr(module, f"{name}_l0") for name in names})
    inputs, labels = pulses(1), torch.arange(100) % 2
    fused = attractors(module, inputs, labels)
    with torch.no_grad(), HiddenStateRecorder(cell) as recorder:
        state = torch.zeros(100, 4)
        for x in inputs.unbind(1):
            state = cell(x, state)
    found = latent_structure(recorder.states, labels, model=cell, inputs_end=0)["l0"].attractors
    assert found is not None
    np.testing.assert_allclose(found.states, fused.states, atol=1e-5)
    np.testing.assert_array_equal(found.basins, fused.basins)


def test_all_layers_are_iterated_together() -> None:
    module = nn.GRU(1, 3, num_layers=2, batch_first=True)
    inputs, labels = pulses(1), torch.arange(100) % 2
    with torch.no_grad(), HiddenStateRecorder(module, layers="all") as recorder:
        module(inputs)
    found = latent_structure(recorder.states, labels, model=module)
    lower, upper = found["l0"].attractors, found["l1"].attractors
    assert lower is not None
    assert upper is not None
    np.testing.assert_array_equal(lower.eigenvalues, upper.eigenvalues)
    states = torch.from_numpy(np.stack([lower.states, upper.states])).float()
    with torch.no_grad():
        _, new = module(torch.zeros(states.shape[1], 1, 1), states)
    torch.testing.assert_close(new, states, atol=1e-4, rtol=0)
    part = latent_structure({"l1": recorder.states["l1"]}, labels, model=module)["l1"]
    assert part.attractors is None
    assert part.no_attractors == "the states of l0 are not known"


def test_a_constant_input_moves_the_fixed_point() -> None:
    module, labels = rnn_of(torch.tensor([[0.5]])), torch.zeros(100, dtype=torch.int64)
    with torch.no_grad(), HiddenStateRecorder(module) as recorder:
        module(pulses(1))
    found = latent_structure(
        recorder.states,
        labels,
        model=module,
        inputs={"": torch.tensor([0.3])},
    )["l0"].attractors
    assert found is not None
    state = found.states.item()
    assert state == pytest.approx(np.tanh(0.5 * state + 0.3), abs=1e-5)
    assert found.in_words() == (
        "under the given input, 100 % of 512 states settle: 1 fixed point; the attractor tells "
        "0.00 of 0.00 bits of the class"
    )


def test_states_that_do_not_settle_or_diverge_are_counted() -> None:
    module, inputs = rnn_of(torch.tensor([[1.01]]), "relu"), pulses(1)
    labels = (inputs[:, 0, 0] > 0).long()
    few = LatentMeasure(n_steps=100, n_starts=100)
    found = attractors(module, inputs, labels, few)
    assert found.period.tolist() == [1]
    assert found.unsettled.tolist()[0] == 0
    assert found.unsettled[1] + found.basins[0, 0] == found.starts == 100
    found = attractors(module, inputs, labels, LatentMeasure(n_steps=3000))
    assert found.diverged[1] + found.basins[0, 0] == 512
    assert "diverge" in found.in_words()
    assert found.label_bits == pytest.approx(found.input_bits, abs=1e-2)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.GRU(1, 2, bidirectional=True, batch_first=True), "GRU is bidirectional: one directi"),
        (None, "no model was given"),
    ],
)
def test_it_says_why_attractors_are_not_known(module: nn.Module | None, reason: str) -> None:
    own = module or nn.GRU(1, 2, batch_first=True)
    with torch.no_grad(), HiddenStateRecorder(own) as recorder:
        own(pulses(1))
    found = latent_structure(recorder.states, torch.zeros(100, dtype=torch.int64), model=module)
    for structure in found.values():
        assert structure.attractors is None
        assert structure.no_attractors.startswith(reason)


def test_states_that_are_not_finite_are_refused() -> None:
    states, labels = states_of()
    states.values[3, 2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"states of 'rnn.l0': nan at step 2, unit 1"):
        latent_structure({"rnn.l0": states}, labels)


def test_a_state_that_starts_at_an_unstable_point_is_told() -> None:
    module = rnn_of(2 * torch.eye(2))
    inputs, labels = torch.zeros(100, 6, 2), torch.arange(100) % 2
    found = attractors(module, inputs, labels)
    assert found.largest.tolist() == [2.0]
    with torch.no_grad(), HiddenStateRecorder(module) as recorder:
        module(inputs)
    latent = latent_structure(recorder.states, labels, model=module)["l0"]
    assert "| unstable fixed point | 100.0 % | 2.0000 |" in attractor_table(latent)


def test_states_that_are_all_alike_have_no_dimension() -> None:
    states = HiddenStates(torch.ones(8, 2, 3), torch.ones(8, 2, dtype=torch.bool))
    found = structure({"rnn.l0": states}, torch.arange(8) % 2)
    assert np.isnan(found.dimension)
    assert np.isnan(found.separation).all()
    assert found.in_words() == "all states are alike"
    assert found.explained.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_in": torch.zeros(3, dtype=torch.int64)}, r"x_in: got shape \(3,\) for 60 sequences"),
        ({"states": {}}, "states: got no layer; it takes states by layer key"),
        (
            {"measure": LatentMeasure(inputs="mean")},
            "measure: got inputs='mean', but the inputs of",
        ),
        ({"inputs": {"rnn": torch.zeros(1)}}, "inputs: 'rnn' is no module to iterate; leave it"),
        ({"inputs_end": 9}, "inputs_end: got 9, but the longest sequence has 5 steps"),
        ({"inputs_end": {"gru": 1}}, "inputs_end: no recorded module 'gru'; it takes 'rnn'"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    states, labels = states_of()
    arguments: dict[str, Any] = {"states": {"rnn.l0": states}, "x_in": labels} | options
    with pytest.raises(ValueError, match=message):
        latent_structure(arguments.pop("states"), arguments.pop("x_in"), **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 1}, "n_components: got 1; it takes an integer of at least 2"),
        ({"n_starts": -1}, "n_starts: got -1; it takes an integer of at least 0"),
        ({"n_steps": 2.5}, r"n_steps: got 2.5; it takes an integer of at least 1"),
        ({"n_steps": 16}, "n_steps: got 16; it takes more than max_period, 16"),
        ({"inputs": "ones"}, "inputs: got 'ones'; it takes 'zero' or 'mean'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentMeasure(**options)
    with pytest.raises(TypeError, match=r"seed: got 0.5; it takes an integer"):
        LatentMeasure(seed=0.5)  # type: ignore[arg-type]


def test_results_depend_on_the_seed_alone() -> None:
    module, inputs = nn.GRU(1, 4, batch_first=True), pulses(1)
    labels = torch.arange(100) % 2
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = [attractors(module, inputs, labels, LatentMeasure(n_starts=50)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(found[0].basins, found[1].basins)
    other = attractors(module, inputs, labels, LatentMeasure(n_starts=50, seed=1))
    assert not np.array_equal(other.basins, found[0].basins)
