import dataclasses

import numpy as np

from lightning_relay.relay.faces import relay_faces
from lightning_relay.relay.picture import PICTURES
from lightning_relay.relay.table import relay_table
from tests.support.reports import small_report

NAMES = ["relay_share", "greedy_order", "units_needed", "relay_transfer"]


def test_each_concept_has_its_table_and_its_pictures_tables_first() -> None:
    report = small_report(concepts="per_class")
    concepts = [f"class_{label}" for label in range(4)]
    faces = relay_faces(report)
    assert list(faces) == [
        *(f"rnn.l0/{concept}/relay_table" for concept in concepts),
        *(f"rnn.l0/{concept}/{name}" for concept in concepts for name in NAMES),
    ]
    assert faces["rnn.l0/class_3/relay_table"] == relay_table(report, "rnn.l0", "class_3")
    for name in NAMES:
        expected = PICTURES[name](report, "rnn.l0", "class_3")
        np.testing.assert_array_equal(faces[f"rnn.l0/class_3/{name}"], expected)


def test_all_layers_have_a_picture_where_there_are_several_and_shares_where_measured() -> None:
    report = small_report(n_orders=0, n_splits=0)
    two = dataclasses.replace(report, layers={"a.l0": report["rnn.l0"], "b.l0": report["rnn.l0"]})
    assert {tag for tag, face in relay_faces(two).items() if not isinstance(face, str)} == {
        "joint/layers",
        *(f"{key}/joint/{name}" for key in two.layers for name in NAMES[1:3]),
    }
