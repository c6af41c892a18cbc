"""Recurrent layers computed one step and one sequence at a time, from their definitions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def step(
    module: nn.RNNBase, suffix: str, x: Tensor, h: Tensor, c: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """One step of one layer and direction: hidden and, for an LSTM, cell state."""
    weight_ih = getattr(module, f"weight_ih{suffix}")
    weight_hh = getattr(module, f"weight_hh{suffix}")
    zero = torch.zeros(len(weight_ih), dtype=x.dtype)
    from_input = weight_ih @ x + getattr(module, f"bias_ih{suffix}", zero)
    from_state = weight_hh @ h + getattr(module, f"bias_hh{suffix}", zero)
    if module.mode == "RNN_TANH":
        return torch.tanh(from_input + from_state), None
    if module.mode == "RNN_RELU":
        return torch.relu(from_input + from_state), None
    if module.mode == "GRU":
        (r_x, z_x, n_x), (r_h, z_h, n_h) = from_input.chunk(3), from_state.chunk(3)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        return (1 - z) * torch.tanh(n_x + r * n_h) + z * h, None
    assert c is not None
    i, f, g, o = (from_input + from_state).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (getattr(module, f"weight_hr{suffix}") @ h if module.proj_size else h), c


@torch.no_grad()
def states_of(
    module: nn.RNNBase, sequence: Tensor, initial: tuple[Tensor, ...] | None = None
) -> dict[str, Tensor]:
    """All states of one sequence ``(step, channel)``, ``(step, unit)`` each, by layer key.

    ``initial`` is h_0 and, for an LSTM, c_0, of shape ``(layer and direction, unit)``.
    """
    found: dict[str, Tensor] = {}
    directions = 1 + module.bidirectional
    inputs = sequence
    for layer in range(module.num_layers):
        outputs = []
        for reverse in range(directions):
            row = layer * directions + reverse
            suffix = f"_l{layer}{'_reverse' * reverse}"
            h = torch.zeros(module.proj_size or module.hidden_size, dtype=sequence.dtype)
            c = torch.zeros(module.hidden_size, dtype=sequence.dtype)
            if initial is not None:
                h = initial[0][row]
                c = initial[1][row] if len(initial) > 1 else c
            hidden: list[Tensor] = []
            cells: list[Tensor] = []
            for x in inputs.flip(0) if reverse else inputs:
                h, c_new = step(module, suffix, x, h, c)
                hidden.append(h)
                if c_new is not None:
                    c = c_new
                    cells.append(c)
            key = f"l{layer}{'_reverse' * reverse}"
            ordered = torch.stack(hidden[::-1] if reverse else hidden)
            found[key] = ordered
            if cells:
                found[f"{key}.cell"] = torch.stack(cells[::-1] if reverse else cells)
            outputs.append(ordered)
        inputs = torch.cat(outputs, dim=-1)
    return found
