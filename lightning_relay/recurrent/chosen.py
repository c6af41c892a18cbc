"""Which calls of a recurrent module are looked at, where it is called several times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

Position = Literal["first", "last", "joined"]
"""Calls by name: one of them, or all as one sequence."""

Calls = Position | int
"""Calls of a module: by name, or the index of one of them."""

ChosenCalls = Calls | Mapping[str, Calls] | None
"""Calls of all modules, or by module name; None for no choice."""

_TAKES = (
    "it takes 'first', 'last', 'joined' (all calls as one sequence), the index of a call such as 1 "
    "or -2, or a mapping from module names to these"
)

_MOST = 6
"""More calls than this are not all listed in a message."""


def check_calls(calls: Any) -> None:
    """Raise a TypeError or ValueError unless ``calls`` is a legal choice."""
    for own in calls.values() if isinstance(calls, Mapping) else [calls]:
        by_index = isinstance(own, int) and not isinstance(own, bool)
        if by_index or own in get_args(Position) or calls is None:
            continue
        kind = ValueError if isinstance(own, str) else TypeError
        raise kind(f"calls: got {calls!r}; {_TAKES}")


def calls_by_module(calls: ChosenCalls, modules: Iterable[str]) -> dict[str, Calls | None]:
    """The choice for each module; a ValueError if it names a module that is not among them."""
    names = list(modules)
    if not isinstance(calls, Mapping):
        return dict.fromkeys(names, calls)
    if unknown := ", ".join(repr(name) for name in calls if name not in names):
        raise ValueError(
            f"calls: no recorded module {unknown}; it takes {', '.join(map(repr, names))}"
        )
    return {name: calls.get(name) for name in names}


def index_of(calls: Calls, name: str, shapes: Sequence[tuple[int, int]]) -> int | None:
    """Index of the chosen call; None for all. A ValueError if there is no such call."""
    if calls == "joined":
        return None
    index = calls if isinstance(calls, int) else {"first": 0, "last": -1}[calls]
    if not -len(shapes) <= index < len(shapes):
        raise ValueError(
            f"calls: got {index}, and there is no such call among {listed(name, shapes)}; it takes "
            f"indices from {-len(shapes)} to {len(shapes) - 1}"
        )
    return index


def check_joinable(
    name: str,
    shapes: Sequence[tuple[int, int]],
    *,
    bidirectional: bool,
    packed: Sequence[bool],
) -> None:
    """Raise a ValueError if calls are no one sequence, whoever says that they are."""
    if len(shapes) == 1:
        return
    why = ""
    if bidirectional:
        why = "its backward direction begins anew in each call"
    elif len({sequences for sequences, _ in shapes}) > 1:
        why = "they have different numbers of sequences"
    elif len(set(packed)) > 1:
        why = "some are of packed sequences and some are not"
    if why:
        raise ValueError(
            f"calls: the calls of {name!r} cannot be joined, because {why}: "
            f"{listed(name, shapes)}. Choose one of them"
        )


def check_one(name: str, shapes: Sequence[tuple[int, int]]) -> None:
    """Raise a ValueError if there are several calls, of which none is chosen."""
    if len(shapes) > 1:
        raise ValueError(
            f"calls: {name!r} was called {len(shapes)} times in one step, with shapes (batch, "
            f"steps): {listed(name, shapes)}. Say with calls= which are analysed; {_TAKES}, such "
            f"as {{{name!r}: 'last'}}. Calls that each continue from the state that the call "
            "before returned count as one, and so do the steps of a cell. A callback that calls "
            "the model must stand after the relay callback"
        )


def listed(name: str, shapes: Sequence[tuple[int, int]]) -> str:
    """Calls by position, ``rnn``, ``rnn#2`` and so on, with their shapes ``(batch, steps)``."""
    words = [
        f"{(f'{name}#{place}' if place > 1 else name)!r} {shape}"
        for place, shape in enumerate(shapes, 1)
    ]
    return ", ".join(words if len(words) <= _MOST else [*words[: _MOST - 2], "…", words[-1]])


def in_words(calls: Calls, numbers: Iterable[int]) -> str:
    """Which calls were chosen, of steps with these numbers of calls."""
    least, most = min(numbers), max(numbers)
    many = f"{most} calls" if least == most else f"{least} to {most} calls"
    if calls == "joined":
        return f"{many} joined"
    return f"{f'index {calls}' if isinstance(calls, int) else calls} of {many}"
