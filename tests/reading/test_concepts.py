import pytest
import torch

from lightning_relay.reading.concepts import Concepts, concept_codes

X_IN = torch.tensor([3, 0, 2, 3])
X_OUT = torch.tensor([3, 2, 2, 0])


def test_joint_is_the_label_itself() -> None:
    assert concept_codes("joint", X_IN, X_OUT)["joint"] == (X_IN, X_OUT)


def test_per_class_asks_of_every_class() -> None:
    codes = concept_codes("per_class", X_IN, X_OUT, num_classes=4)
    assert list(codes) == ["class_0", "class_1", "class_2", "class_3"]
    assert codes["class_3"][0].tolist() == [1, 0, 0, 1]
    assert codes["class_3"][1].tolist() == [1, 0, 0, 0]
    assert codes["class_1"][0].tolist() == [0, 0, 0, 0]
    assert list(concept_codes("per_class", X_IN, X_OUT)) == ["class_0", "class_2", "class_3"]


def test_a_function_is_called_once_for_each_label_with_an_int() -> None:
    called = []

    def season(label: int) -> str:
        called.append(label)
        return "winter" if label in (0, 3) else "summer"

    x_in, x_out = concept_codes({"season": season}, X_IN, X_OUT)["season"]
    assert called == [0, 2, 3]
    assert all(type(label) is int for label in called)
    assert x_in.tolist() == [0, 0, 1, 0]
    assert x_out.tolist() == [0, 1, 1, 0]


def test_negative_and_sparse_labels_are_taken() -> None:
    x_in = torch.tensor([-5, 10**12])
    codes = concept_codes({"sign": lambda label: label > 0}, x_in, x_in.flip(0))["sign"]
    assert [code.tolist() for code in codes] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("concepts", ["bits", {}, 3])
def test_unknown_concepts_are_refused(concepts: Concepts) -> None:
    with pytest.raises(
        ValueError, match=r"concepts: got .*; it takes 'joint', 'per_class', or a m"
    ):
        concept_codes(concepts, X_IN, X_OUT)


def test_functions_are_checked() -> None:
    with pytest.raises(TypeError, match=r"concepts: got 'even': 2; it takes a name and a function"):
        concept_codes({"even": 2}, X_IN, X_OUT)
    with pytest.raises(TypeError, match=r"concepts: 'list' returned \[0\] for label 0; it takes"):
        concept_codes({"list": lambda label: [label]}, X_IN, X_OUT)


def test_tensors_which_are_told_apart_by_identity_are_refused() -> None:
    labels = torch.arange(4)
    with pytest.raises(
        TypeError, match=r"concepts: 'odd' returned tensor\(0\) for label 0; it tak"
    ):
        concept_codes({"odd": lambda label: torch.tensor(label % 2)}, labels, labels)


def test_values_that_equal_nothing_are_refused() -> None:
    labels = torch.arange(4)
    with pytest.raises(ValueError, match=r"concepts: 'size' returned nan for label 0, which equal"):
        concept_codes({"size": lambda label: float("nan")}, labels, labels)


def test_a_function_that_fails_names_its_concept_and_the_label() -> None:
    labels = torch.arange(6)
    with pytest.raises(ValueError, match=r"concepts: 'season' failed for label 4: IndexError"):
        concept_codes({"season": ["w", "s", "s", "a"].__getitem__}, labels, labels)
