"""Table of a latent structure: steps, and attractors with the classes that lead to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lightning_relay.latent.structure import Attractors, LatentStructure

_LISTED = 16
"""Number of attractors in the table; others are counted."""

_CLASSES = 4

_MARGINAL = 1e-4
"""Along a continuous attractor the largest eigenvalue is 1, but for rounding."""


def attractor_table(latent: LatentStructure) -> str:
    """Markdown tables of what attracts the states and of the states at every step."""
    found = latent.attractors
    about = (
        f"{_sentence(latent.in_words())} Of the variance after the inputs' end, "
        f"{_fractions(latent)} lie along the first components. "
    )
    if found is None:
        reason = latent.no_attractors or "n_starts is 0"
        about += f"Where states settle was not found out: {reason}. "
        return "\n".join([about, "", *_steps(latent)])
    about += (
        f"{_sentence(found.in_words())} The module was iterated for up to {found.n_steps} steps, "
        "from states that sequences visited. Largest eigenvalue: modulus, of the Jacobian over one "
        "period; below 1 the attractor is stable, near 1 states approach it slowly. Radius: how "
        "far the attractor extends, relative to the spread of the visited states. Classes: those "
        "of the sequences whose states lead there, most frequent first, with numbers of states. "
    )
    return "\n".join([about, "", *_attractors(found), "", *_steps(latent)])


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _fractions(latent: LatentStructure) -> str:
    return ", ".join(f"{100 * part:.0f} %" for part in latent.explained[: len(latent.components)])


def _attractors(found: Attractors) -> list[str]:
    rows = ["| attractor | states | largest eigenvalue | radius | classes |"]
    rows.append("| :--- | ---: | ---: | ---: | :--- |")
    for place in range(min(len(found), _LISTED)):
        kind = "fixed point" if found.period[place] == 1 else f"cycle of {found.period[place]}"
        if found.continuous[place]:
            kind = "continuous attractor"
            if found.period[place] > 1:
                kind += f" of cycles of {found.period[place]}"
        largest = found.largest[place]
        if largest > 1 + _MARGINAL:
            kind = f"unstable {kind}"
        rows.append(
            f"| {kind} | {found.basins[place].sum() * 100 / found.starts:.1f} % | "
            f"{'–' if np.isnan(largest) else f'{largest:.4f}'} | {found.radius[place]:.2f} | "
            f"{_classes(found, found.basins[place])} |"
        )
    if len(found) > _LISTED:
        others = found.basins[_LISTED:].sum(0)
        part = f"{others.sum() * 100 / found.starts:.1f} %"
        rows.append(
            f"| {len(found) - _LISTED} others | {part} | – | – | {_classes(found, others)} |"
        )
    for name, counts in (("not settled", found.unsettled), ("diverged", found.diverged)):
        if counts.any():
            part = f"{counts.sum() * 100 / found.starts:.1f} %"
            rows.append(f"| {name} | {part} | – | – | {_classes(found, counts)} |")
    return rows


def _classes(found: Attractors, counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    ranked = [row for row in np.argsort(-counts, kind="stable") if counts[row]]
    words = [f"{found.classes[row]} ({counts[row]})" for row in ranked[:_CLASSES]]
    return ", ".join(words) + (f", … ({len(ranked)})" if len(ranked) > _CLASSES else "")


def _steps(latent: LatentStructure) -> list[str]:
    rows = ["| step | sequences | speed | variance within classes | between | part between |"]
    rows.append("| ---: | ---: | ---: | ---: | ---: | ---: |")
    columns = zip(
        latent.time_steps,
        latent.inputs_ended,
        latent.samples.sum(0),
        latent.speed,
        latent.within,
        latent.between,
        latent.separation,
        strict=True,
    )
    for step, ended, sequences, *values in columns:
        numbers = " | ".join("–" if np.isnan(value) else f"{value:z.3f}" for value in values)
        rows.append(f"| {step}{'' if ended else ' *'} | {sequences} | {numbers} |")
    if not latent.inputs_ended.all():
        rows += ["", "At a step marked * the states had not seen all input."]
    return rows
