"""Subclasses of nn.GRU and nn.LSTM with forwards of their own: some pass on, others do not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class PassesOn:
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class MakesState:
    """Makes the initial state of zeros that PyTorch would make."""

    def forward(self, x: Any, state: Any = None) -> Any:
        if state is None:
            data = x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x
            batch = int(x.batch_sizes[0]) if data is not x else x.shape[not self.batch_first]
            rows = self.num_layers * (1 + self.bidirectional)
            zeros = data.new_zeros(rows, batch, self.hidden_size)
            state = (zeros, zeros.clone()) if self.mode == "LSTM" else zeros
        return super().forward(x, state)


class TakesLengths:
    """Packs what it is given with lengths, and keeps the initial state where these are 0."""

    def forward(self, x: Any, hx: Any = None, lengths: Tensor | None = None) -> Any:
        if lengths is None:
            return super().forward(x, hx)
        packed = pack_padded_sequence(
            x, lengths.clamp(min=1), batch_first=self.batch_first, enforce_sorted=False
        )
        output, final = super().forward(packed, hx)
        parts = final if isinstance(final, tuple) else (final,)
        before = (
            (hx if isinstance(hx, tuple) else (hx,)) if hx is not None else [0 * s for s in parts]
        )
        empty = (lengths == 0)[None, :, None]
        kept = tuple(torch.where(empty, *pair) for pair in zip(before, parts, strict=True))
        padded = pad_packed_sequence(output, batch_first=self.batch_first)[0]
        return padded, kept if isinstance(final, tuple) else kept[0]


class ChangesInput:
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        return super().forward(2 * x, hx)


class ChangesInputInPlace:
    """Scales its input itself, so that what it was given is not there any more."""

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        return super().forward(x.mul_(2), hx)


class ScalesInputAfterwards:
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        result = super().forward(x, hx)
        x.mul_(2)
        return result


class ChangesOutput:
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        output, final = super().forward(x, hx)
        return output + 1, final


class ChangesState:
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        output, final = super().forward(x, hx)
        return output, (final[0], 2 * final[1]) if isinstance(final, tuple) else 2 * final


class StartsElsewhere:
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        _, final = super().forward(x)
        state = tuple(torch.ones_like(s) for s in final) if isinstance(final, tuple) else final + 1
        return super().forward(x, state)


class DropsOut:
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        output, final = super().forward(x, hx)
        return nn.functional.dropout(output, 0.5, training=True), final


class DropsOutInTraining:
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        output, final = super().forward(x, hx)
        return nn.functional.dropout(output, 0.5, training=self.training), final


class OutputOnly:
    def forward(self, x: Tensor, hx: Any = None) -> Any:
        return super().forward(x, hx)[0]


class Doubles:
    """Another type than PyTorch's forward gives."""

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        output, final = super().forward(x, hx)
        return output.half(), final


def subclass(forward: type, base: type[nn.Module]) -> Any:
    """A subclass of a module with the forward of one of the classes here."""
    return type(forward.__name__, (forward, base), {})


PASSING_ON = [PassesOn, MakesState, TakesLengths, DropsOutInTraining]
"""Forwards that give what PyTorch's give, in evaluation mode."""

REFUSED = {
    ChangesInput: r"whose output is up to .* away from that of PyTorch's forward",
    ChangesInputInPlace: "which changes its input in place",
    ScalesInputAfterwards: "which changes its input in place",
    ChangesOutput: r"whose output is up to 1\.0e\+00 away from that of PyTorch's forward",
    ChangesState: r"whose final state is up to .* away from that of PyTorch's forward",
    StartsElsewhere: r"whose output is up to .* away from that of PyTorch's forward",
    DropsOut: r"whose output is up to .* away from that of PyTorch's forward",
    OutputOnly: "which returned Tensor where PyTorch's returns a pair of output and final state",
    Doubles: r"which returned torch\.float16 \(4, 5, 3\) as its output where PyTorch's returns tor",
}
"""Forwards that give something else, and how a knock-out says so."""
