"""What loggers show of a relay report: every table, and few figures."""

from __future__ import annotations

import dataclasses

from lightning_relay.relay.faces import relay_faces
from lightning_relay.relay.figures import FIGURES
from lightning_relay.relay.table import relay_table
from lightning_relay.reports.figure import to_json
from tests.support.reports import small_report


def test_each_concept_has_its_table_and_the_first_has_figures() -> None:
    report = small_report(concepts="per_class")
    concepts = [f"class_{label}" for label in range(4)]
    faces = relay_faces(report)
    assert list(faces) == [
        *(f"rnn.l0/{concept}/relay_table" for concept in concepts),
        "rnn.l0/class_0/relay_share",
        "rnn.l0/class_0/relay_transfer",
    ]
    assert faces["rnn.l0/class_3/relay_table"] == relay_table(report, "rnn.l0", "class_3")
    for name in ("relay_share", "relay_transfer"):
        found = faces[f"rnn.l0/class_0/{name}"]
        assert not isinstance(found, str)
        assert to_json(found) == to_json(FIGURES[name](report, "rnn.l0", "class_0", -1, None))


def test_all_layers_have_a_figure_where_there_are_several_and_shares_where_measured() -> None:
    report = small_report(n_orders=0, n_splits=0)
    two = dataclasses.replace(report, layers={"a.l0": report["rnn.l0"], "b.l0": report["rnn.l0"]})
    assert [tag for tag, face in relay_faces(two).items() if not isinstance(face, str)] == [
        "a.l0/joint/units_needed",
        "b.l0/joint/units_needed",
        "joint/layers",
    ]
