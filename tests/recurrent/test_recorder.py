from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lightning_relay import HiddenStateRecorder, recurrent_layers, register_recurrent
from lightning_relay.recurrent import StateKey
from lightning_relay.recurrent.calls import read_call
from tests.support.hooks import hook_count


def test_what_the_model_returns_and_learns_is_untouched() -> None:
    model = nn.GRU(2, 3)
    inputs = torch.randn(4, 5, 2)
    expected, _ = model(inputs)
    with HiddenStateRecorder(model) as recorder:
        output, _ = model(inputs)
        output.sum().backward()
        assert torch.equal(output, expected)
        assert not recorder.states["l0"].values.requires_grad
        with torch.no_grad():
            output.zero_()
        assert torch.equal(recorder.states["l0"].values, expected.transpose(0, 1))
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_calls_stand_one_after_the_other_until_cleared() -> None:
    model = nn.ModuleDict({"a": nn.RNN(2, 3, batch_first=True), "b": nn.GRU(2, 3)})
    with HiddenStateRecorder(model) as recorder:
        model["a"](torch.zeros(2, 4, 2))
        model["a"](torch.zeros(1, 6, 2))
        model["b"](torch.zeros(4, 2, 2))
        assert recorder.batches == {"a.l0": 2, "b.l0": 1}
        assert recorder.states["a.l0"].lengths.tolist() == [4, 4, 6]
        recorder.clear()
        assert recorder.batches == {"a.l0": 0, "b.l0": 0}
        model["b"](torch.zeros(4, 2, 2))
    with pytest.raises(
        RuntimeError, match=r"recorder: nothing was recorded of 'a'. If it was not called inside t"
    ):
        recorder.states  # noqa: B018


def test_batches_are_chosen_or_joined() -> None:
    model = nn.ModuleDict({"a": nn.LSTM(2, 3, num_layers=2), "b": nn.GRU(2, 3)}).eval()
    inputs = torch.randn(4, 5, 2)
    calls = {"a": "joined"}
    options: dict[str, Any] = {"layers": "all", "states": ("hidden", "cell")}
    parts = []
    with (
        torch.no_grad(),
        HiddenStateRecorder(model, **options, calls=calls) as joined,
        HiddenStateRecorder(model, **options) as single,
    ):
        for part in (inputs, inputs[:3]):
            single.clear()
            model["a"](part)
            model["b"](part)
            parts.append(single.states)
    assert joined.shapes == {"a": [(5, 4), (5, 3)], "b": [(5, 4), (5, 3)]}
    for key, states in joined.states.items():
        values = [own[key].values for own in parts]
        if key == "b.l0":  # without a choice, batches follow each other in the batch
            values[1] = nn.functional.pad(values[1], (0, 0, 0, 1))
        assert torch.equal(states.values, torch.cat(values, dim=0 if key == "b.l0" else 1))


def test_only_what_is_chosen_is_replayed_and_told_to_be_sorted() -> None:
    sequences = [torch.zeros(length, 2) for length in (3, 2)]
    model = nn.LSTM(2, 3)
    with torch.no_grad(), HiddenStateRecorder(model, states=("cell",), calls="last") as recorder:
        model(pack_sequence(sequences))
        model.weight_hh_l0.add_(1)
        model(torch.zeros(4, 1, 2))
    assert recorder.packed == {}
    assert recorder.states["l0.cell"].values.shape == (1, 4, 3)
    recorder.clear()
    assert recorder.packed == {}
    with pytest.raises(RuntimeError, match="recorder: nothing was recorded"):
        recorder.states  # noqa: B018


def test_states_recorded_in_inference_mode_can_enter_autograd() -> None:
    model = nn.RNN(2, 3)
    with torch.inference_mode(), HiddenStateRecorder(model) as recorder:
        model(torch.zeros(4, 1, 2))
    weights = torch.ones(3, requires_grad=True)
    (recorder.states["l0"].values @ weights).sum().backward()
    assert weights.grad is not None


def test_packed_states_can_enter_autograd_and_say_who_sorted_them() -> None:
    model = nn.ModuleDict({"a": nn.RNN(2, 3), "b": nn.RNN(2, 3), "c": nn.RNN(2, 3)})
    sequences = [torch.zeros(length, 2) for length in (3, 2)]
    with HiddenStateRecorder(model) as recorder:
        model["a"](pack_sequence(sequences))
        model["b"](pack_sequence(sequences, enforce_sorted=False))
        model["c"](pack_sequence(sequences[:1]))
        assert recorder.packed == {"a.l0": True, "b.l0": False, "c.l0": False}
        assert not recorder.states["a.l0"].values.requires_grad
        recorder.clear()
        assert recorder.packed == {}


def test_only_its_own_hooks_are_removed_also_after_an_exception() -> None:
    model = nn.Sequential(nn.RNN(2, 3))
    foreign = model[0].register_forward_hook(lambda *_: None)
    before = hook_count(model)
    recorder = HiddenStateRecorder(model)
    with recorder, HiddenStateRecorder(model):
        assert hook_count(model) == before + 4  # one on the model and one on the module, each
    assert hook_count(model) == before
    with pytest.raises(RuntimeError, match=r"input\.size"), recorder:
        model(torch.zeros(4, 1, 5))
    assert hook_count(model) == before
    foreign.remove()


def test_a_recorder_is_entered_once_at_a_time() -> None:
    recorder = HiddenStateRecorder(nn.RNN(2, 3))
    message = r"^recorder: it is recording already; leave its block first$"
    with recorder, pytest.raises(RuntimeError, match=message):
        recorder.__enter__()
    with recorder:
        pass


def test_a_copy_of_a_recorded_model_is_not_recorded() -> None:
    model = nn.Sequential(nn.LSTM(2, 3))
    with HiddenStateRecorder(model, states=("hidden", "cell")) as recorder:
        model(torch.zeros(4, 1, 2))
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin(torch.zeros(9, 1, 2))
            with HiddenStateRecorder(twin) as other:
                twin(torch.zeros(9, 1, 2))
            assert other.batches == {"0.l0": 1}
        assert recorder.batches == {"0.l0": 1, "0.l0.cell": 1}


def test_only_wanted_states_are_recorded() -> None:
    model = nn.LSTM(2, 3, num_layers=2, bidirectional=True).eval()
    expected = {
        ("last", ("hidden",)): ["l1", "l1_reverse"],
        ("last", ("cell",)): ["l1.cell", "l1_reverse.cell"],
        ("all", ("hidden",)): ["l0", "l0_reverse", "l1", "l1_reverse"],
    }
    for (layers, states), keys in expected.items():
        with torch.no_grad(), HiddenStateRecorder(model, layers=layers, states=states) as recorder:
            model(torch.zeros(4, 1, 2))
        assert sorted(recorder.states) == keys
        assert list(recorder.batches) == list(recorder.states)


class TwoCells(nn.Module):
    """Two cells on top of each other, called step by step; dropout between the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.LSTMCell(2, 3)
        self.upper = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        lower, upper = None, torch.zeros(len(x), 4)
        for inputs in x.unbind(1):
            lower = self.lower(inputs, lower)
            upper = nn.functional.dropout(self.upper(lower[0], upper), 0.5, self.training)
        return upper


def test_calls_of_a_cell_are_the_steps_of_a_pass() -> None:
    torch.manual_seed(0)  # dropout may make a state zero, which begins anew
    model = TwoCells()
    with HiddenStateRecorder(model, states=("hidden", "cell")) as recorder:
        model(torch.ones(5, 7, 2))
        model(torch.ones(2, 4, 2))
    assert recorder.batches == {"lower.l0": 2, "lower.l0.cell": 2, "upper.l0": 2}
    for key, units in (("lower.l0", 3), ("lower.l0.cell", 3), ("upper.l0", 4)):
        assert recorder.states[key].values.shape == (7, 7, units)
        assert recorder.states[key].lengths.tolist() == [7] * 5 + [4] * 2


def test_a_cell_called_without_a_state_or_after_clear_starts_new_sequences() -> None:
    cell = nn.GRUCell(2, 3)
    with torch.no_grad(), HiddenStateRecorder(cell) as recorder:
        cell(torch.ones(5, 2), hx=cell(torch.ones(5, 2)))
        first = cell(torch.ones(4, 2))
        assert recorder.batches == {"l0": 2}
        assert recorder.states["l0"].lengths.tolist() == [2] * 5 + [1] * 4
        with pytest.raises(ValueError, match=r"modules: '' was called on 4 sequences and then, in"):
            cell(torch.ones(2, 2), first[:2])
        recorder.clear()
        cell(torch.ones(2, 2), first[:2])
        assert recorder.states["l0"].lengths.tolist() == [1, 1]


def test_a_call_that_is_given_the_state_of_the_call_before_goes_on() -> None:
    model = nn.LSTM(2, 3, num_layers=2, batch_first=True).eval()
    inputs = torch.randn(5, 9, 2)
    with (
        torch.no_grad(),
        HiddenStateRecorder(model, layers="all", states=("hidden", "cell")) as recorder,
    ):
        model(inputs)
        whole = recorder.states
        recorder.clear()
        state = None
        for part in inputs.split(4, dim=1):
            _, state = model(part, state)
        assert set(recorder.batches.values()) == {1}
        for key, states in recorder.states.items():
            torch.testing.assert_close(states.values, whole[key].values)
        model(inputs[:2], tuple(part[:, :2].contiguous() for part in state))
        assert set(recorder.batches.values()) == {2}


def test_nothing_of_the_computation_is_kept_alive() -> None:
    model = nn.LSTM(2, 3)
    with HiddenStateRecorder(model, states=("hidden", "cell")) as recorder:
        inputs = torch.randn(4, 1, 2, requires_grad=True)
        output, state = model(inputs)
        alive = [weakref.ref(tensor) for tensor in (inputs, output, *state)]
        del inputs, output, state
        assert [tensor() for tensor in alive] == [None] * 4
        assert not any(states.values.requires_grad for states in recorder.states.values())


class MinimalGatedUnit(nn.Module):
    """The forget gate of Zhou et al. (2016) alone; given whole sequences ``(step, batch, …)``."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.forget = nn.Linear(channels + units, units)
        self.candidate = nn.Linear(channels + units, units)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        f = torch.sigmoid(self.forget(torch.cat([x, h], dim=-1)))
        return (1 - f) * h + f * torch.tanh(self.candidate(torch.cat([x, f * h], dim=-1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states = [x.new_zeros(x.shape[1], self.units)]
        for inputs in x:
            states.append(self.step(inputs, states[-1]))
        return torch.stack(states[1:]), states[-1]


class MinimalGatedCell(MinimalGatedUnit):
    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.step(x, h)


def test_registered_modules_are_recorded_whole_or_step_by_step() -> None:
    register_recurrent(
        MinimalGatedUnit,
        units=lambda module: module.units,
        hidden=lambda module, inputs, output: output[0].transpose(0, 1),
    )
    register_recurrent(
        MinimalGatedCell,
        units=lambda module: module.units,
        hidden=lambda module, inputs, output: output,
    )
    unit, cell = MinimalGatedUnit(2, 3), MinimalGatedCell(2, 3)
    cell.load_state_dict(unit.state_dict())
    inputs = torch.randn(6, 5, 2)
    with torch.no_grad(), HiddenStateRecorder(unit) as recorder:
        unit(inputs)
    whole = recorder.states["l0"]
    assert whole.values.shape == (5, 6, 3)
    assert recurrent_layers(nn.Sequential(unit, cell)) == {"0.l0": 3, "1.l0": 3}
    with torch.no_grad(), HiddenStateRecorder(cell) as recorder:
        h = torch.zeros(5, 3)
        for x in inputs:
            h = cell(x, h)
    torch.testing.assert_close(recorder.states["l0"].values, whole.values)


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(2, 3)

    def forward(self, x: PackedSequence) -> tuple[PackedSequence, Tensor]:
        output, (_, cell) = self.inner(x)
        return output, cell


PACKED = pack_sequence([torch.ones(2, 2), torch.ones(4, 2)], enforce_sorted=False)
ADAPTER = {"units": lambda module: 3, "hidden": lambda module, inputs, output: output[0]}


def test_an_adapter_may_give_packed_sequences_and_cell_states() -> None:
    register_recurrent(Wrapper, **ADAPTER)
    model = Wrapper()
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        model(PACKED)
    states = recorder.states
    assert list(states) == ["l0", "inner.l0"]
    assert torch.equal(states["l0"].values, states["inner.l0"].values)
    assert states["l0"].lengths.tolist() == [2, 4]
    cell = {"cell": lambda module, inputs, output: output[1][0], "cell_units": lambda module: 3}
    register_recurrent(Wrapper, **ADAPTER, **cell)
    assert list(recurrent_layers(model)) == ["l0", "l0.cell", "inner.l0", "inner.l0.cell"]
    with (
        HiddenStateRecorder(model, [""], states=("hidden", "cell")),
        pytest.raises(
            ValueError,
            match=r"^modules: the adapter of '' \(Wrapper\) gave hidden and cell states of "
            r"different numbers of dimensions; it takes \(batch, step, unit\) for both, or \(batc",
        ),
    ):
        model(PACKED)


@pytest.mark.parametrize(
    ("hidden", "got"), [(lambda _, x, out: out[1], r"\(1, 2, 3\)"), (lambda *_: "h", "str")]
)
def test_other_states_of_an_adapter_are_refused(hidden: Any, got: str) -> None:
    register_recurrent(Wrapper, units=lambda module: 7, hidden=hidden)
    model = Wrapper()
    with (
        HiddenStateRecorder(model, [""]),
        pytest.raises(
            ValueError,
            match=rf"^modules: the adapter of '' \(Wrapper\) gave {got} for 'l0'; it takes states "
            r"\(batch, step, 7\), or \(batch, 7\) of a module that is called once for every step$",
        ),
    ):
        model(PACKED)


@pytest.mark.parametrize(
    ("kind", "changes", "error", "words"),
    [
        (nn.LSTM, {}, ValueError, "kind: got LSTM, a recurrent module of PyTorch; it needs no ada"),
        (3, {}, TypeError, "kind: got 3; it takes a subclass of torch.nn.Module$"),
        (int, {}, TypeError, "kind: got <class 'int'>; it takes a subclass of torch.nn.Module$"),
        (Wrapper, {"units": 8}, TypeError, "units: got 8; it takes a function of the module$"),
        (Wrapper, {"hidden": None}, TypeError, "hidden: got None; it takes a function of the mod"),
        (Wrapper, {"cell": 8}, TypeError, "cell: got 8; it takes a function of the module$"),
    ],
)
def test_what_is_no_adapter_is_refused(
    kind: Any, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^{words}"):
        register_recurrent(kind, **(ADAPTER | changes))


class OutputOnly(nn.GRU):
    def forward(self, *args: Tensor) -> Tensor:
        return super().forward(*args)[0]


class Wide(nn.GRU):
    def forward(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        output, final = super().forward(*args)
        return torch.cat([output, output], -1), final


class HiddenOnly(nn.LSTMCell):
    def forward(self, *args: Tensor) -> Tensor:
        return super().forward(*args)[0]


class Pair(nn.GRUCell):
    def forward(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(*args), args[0]


@pytest.mark.parametrize(
    ("kind", "returned"),
    [
        (OutputOnly, "Tensor where PyTorch's recurrent modules return a pair of output and final"),
        (Wide, "states of 6 units where it has 3; register"),
        (HiddenOnly, "something else than the hidden and cell state of 3 units; register"),
        (Pair, "something else than the hidden state of 3 units; register"),
    ],
)
def test_subclasses_that_return_something_else_are_refused(
    kind: type[nn.Module], returned: str
) -> None:
    model = nn.Sequential(kind(2, 3))
    with (
        HiddenStateRecorder(model),
        pytest.raises(
            ValueError,
            match=rf"^modules: '0' \({kind.__name__}\) returned {returned}.* with register_recurr",
        ),
    ):
        model(torch.zeros(4, 2))


def test_a_subclass_that_returns_something_else_can_be_registered() -> None:
    model = nn.Sequential(OutputOnly(2, 3, batch_first=True))
    register_recurrent(
        OutputOnly,
        units=lambda module: module.hidden_size,
        hidden=lambda module, inputs, output: output,
    )
    with HiddenStateRecorder(model) as recorder:
        output = model(torch.zeros(1, 4, 2))
    assert torch.equal(recorder.states["0.l0"].values, output)


def test_single_sequences_are_batches_of_one() -> None:
    model = nn.Sequential(nn.RNN(2, 3))
    with HiddenStateRecorder(model) as recorder:
        model(torch.zeros(4, 2))
    assert recorder.states["0.l0"].values.shape == (1, 4, 3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "abc"}, TypeError, r"model: got str; it takes a torch.nn.Module$"),
        ({"modules": 3}, TypeError, "modules: got 3; it takes a list of module names, or None$"),
        ({"layers": "first"}, ValueError, "layers: got 'first'; it takes 'last', 'all'$"),
        ({"calls": "both"}, ValueError, "calls: got 'both'; it takes 'first', 'last', 'joined' "),
        ({"calls": {"a": 1}}, ValueError, "calls: no recorded module 'a'; it takes '0'$"),
        (
            {"states": "cell"},
            TypeError,
            r"states: got the string 'cell'; it takes a list: \['cell'",
        ),
        ({"states": 3}, ValueError, "states: got 3; it takes a list of 'hidden', 'cell'$"),
        (
            {"states": ("gate",)},
            ValueError,
            r"states: got \('gate',\); it takes a list of 'hidden'",
        ),
        (
            {"states": ("cell",)},
            ValueError,
            r"states: '0' \(GRU\) has no cell states; ask for 'hid",
        ),
    ],
    ids=str,
)
def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^{words}"):
        HiddenStateRecorder(**({"model": nn.Sequential(nn.GRU(2, 3))} | options))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_that_would_leave_out_hooks_is_refused(backend: str) -> None:
    model, inputs = TwoCells().eval(), torch.ones(2, 4, 2)
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        model(inputs)
    expected = recorder.states["lower.l0"].values
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        compiled(inputs)
        recorder = HiddenStateRecorder(compiled)
        with pytest.raises(RuntimeError, match=r"'lower', 'upper' may be compiled.*guards = False"):
            recorder.__enter__()
        assert hook_count(compiled) == 0
        with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
            with recorder:
                compiled(inputs)
            with pytest.raises(
                RuntimeError, match=r"recorded of 'lower', 'upper'.*compiler\.reset"
            ):
                recorder.states  # noqa: B018
            torch.compiler.reset()
            for _ in range(2):
                with recorder:
                    compiled(inputs)
                compiled(inputs)
    for states in recorder.states["lower.l0"].values.chunk(2):
        torch.testing.assert_close(states, expected)


def test_calls_of_a_compiled_cell_are_steps_too() -> None:
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        cell = torch.compile(nn.GRUCell(2, 3), backend="eager")
        with torch.no_grad(), HiddenStateRecorder(cell) as recorder:
            h = None
            for x in torch.ones(4, 5, 2):
                h = cell(x, h)
    assert recorder.batches == {"l0": 1}
    assert recorder.states["l0"].values.shape == (5, 4, 3)


def test_compiled_subclasses_with_a_forward_of_their_own_may_leave_out_hooks() -> None:
    class Scaled(nn.GRU):
        def forward(self, *args: Tensor) -> object:
            return super().forward(2 * args[0])

    compiled = torch.compile(nn.Sequential(Scaled(2, 3)), backend="eager")
    compiled(torch.ones(4, 1, 2))
    with pytest.raises(
        RuntimeError, match=r"recorder: '0' may be compiled, and compiled code leav"
    ):
        HiddenStateRecorder(compiled).__enter__()


def test_fused_modules_are_heard_in_compiled_code() -> None:
    model = nn.Sequential(nn.GRU(2, 3), nn.Identity())
    compiled = torch.compile(model, backend="eager")
    compiled(torch.ones(2, 4, 2))
    with HiddenStateRecorder(compiled) as recorder:
        for batch in (4, 4, 3):
            compiled(torch.ones(2, batch, 2))
    assert recorder.batches == {"0.l0": 3}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_is_left_where_setting_them_or_the_forward_fails(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(nn.GRU):
        def register_forward_hook(self, *args: object, **options: object) -> object:
            raise error

    model = nn.Sequential(nn.GRU(2, 3), Failing(3, 3))
    with pytest.raises(error), HiddenStateRecorder(model):
        pass
    assert hook_count(model) == 0

    def fail(*_: object) -> None:
        raise error

    failing = nn.Sequential(nn.GRU(2, 3))
    failing[0].register_forward_pre_hook(fail)
    recorder = HiddenStateRecorder(failing)
    with pytest.raises(error), recorder:
        failing(torch.ones(2, 4, 2))
    assert hook_count(failing) == 1


def test_a_state_of_zeros_and_a_new_block_start_new_sequences() -> None:
    cell = nn.GRUCell(2, 3)
    with torch.no_grad(), HiddenStateRecorder(cell) as recorder:
        for _ in range(2):
            h = torch.zeros(5, 3)
            for x in torch.randn(4, 5, 2):
                h = 0.5 * cell(x, h)
    with torch.no_grad(), recorder:
        cell(torch.randn(5, 2), h)
    assert recorder.batches == {"l0": 3}
    assert recorder.states["l0"].lengths.tolist() == [4] * 10 + [1] * 5
    fused = nn.LSTM(2, 3)
    with torch.no_grad(), HiddenStateRecorder(fused) as recorder:
        _, state = fused(torch.randn(4, 5, 2))
        for part in state:
            part.zero_()
        fused(torch.randn(4, 5, 2), state)
    assert recorder.batches == {"l0": 2}


def test_packed_and_bidirectional_calls_do_not_go_on() -> None:
    packed = pack_sequence([torch.randn(3, 2), torch.randn(2, 2)])
    for model, inputs in (
        (nn.GRU(2, 3), packed),
        (nn.GRU(2, 3, bidirectional=True), torch.randn(4, 2, 2)),
    ):
        with torch.no_grad(), HiddenStateRecorder(model) as recorder:
            _, state = model(inputs)
            model(inputs, state)
        assert set(recorder.batches.values()) == {2}


def test_what_the_user_does_to_outputs_of_cells_afterwards_does_not_matter() -> None:
    cell = nn.LSTMCell(2, 3)
    with torch.no_grad(), HiddenStateRecorder(cell, states=("hidden", "cell")) as recorder:
        h, c = cell(torch.ones(4, 2))
        expected = h.clone(), c.clone()
        h.zero_()
        c.zero_()
    for key, states in zip(("l0", "l0.cell"), expected, strict=True):
        assert torch.equal(recorder.states[key].values[:, 0], states)


def test_a_module_that_is_not_recurrent_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^modules: 'head' \(Linear\) is no recurrent module$"):
        read_call("head", nn.Linear(2, 3), [StateKey("head")], (), {}, torch.zeros(1, 3))
