import pytest
import torch
from hypothesis import given

from lightning_relay.information import entropy, mutual_information
from tests.support.brute_force import conditional_information, rows_of
from tests.support.refusals import refusals_of
from tests.support.strategies import Data, discrete_data


@given(discrete_data())
def test_equals_the_reference_with_and_without_condition(data: Data) -> None:
    labels = data.x_in.tolist(), data.x_out.tolist()
    rows = rows_of(data.hidden.tolist(), range(data.hidden.shape[1]))
    nothing: list[tuple[int, ...]] = [()] * len(rows)
    assert float(mutual_information(data.x_in, data.x_out)) == pytest.approx(
        conditional_information(*labels, nothing), abs=1e-12
    )
    assert float(mutual_information(data.x_in, data.x_out, data.hidden)) == pytest.approx(
        conditional_information(*labels, rows), abs=1e-12
    )


@given(discrete_data())
def test_is_symmetric_and_bounded(data: Data) -> None:
    forward = float(mutual_information(data.x_in, data.x_out, data.hidden))
    backward = float(mutual_information(data.x_out, data.x_in, data.hidden))
    assert forward == pytest.approx(backward, abs=1e-12)
    smaller = min(float(entropy(x.unsqueeze(1))) for x in (data.x_in, data.x_out))
    assert -1e-12 <= forward <= smaller + 1e-12


def test_large_sparse_codes_are_sorted_instead_of_tabulated() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randint(2000, (3000, 2), generator=generator)
    sparse = dense * 10**12 - 7 * 10**14
    labels = torch.randint(2000, (3000,), generator=generator)
    assert torch.equal(
        mutual_information(labels, labels, dense),
        mutual_information(labels * 10**15, -labels, sparse),
    )


def test_labels_that_do_not_fit_are_refused() -> None:
    labels = torch.zeros(3).long()
    refused = refusals_of(
        mutual_information, x_in=labels, x_out=labels, given=torch.zeros(2, 3, 1).long()
    )
    refused(ValueError, r"x_out: got shape \(2,\) for hidden \(2, 3, 1\); it", x_out=labels[:2])
    refused(ValueError, r"x_in: .*\(5, 3\), which does not broadcast", x_in=labels.expand(5, 3))
    refused(TypeError, r"x_in: got torch.float32; .*: give class labels", x_in=labels.float())
    refused(TypeError, r"x_in: got list; it takes a tensor of integers", x_in=[0, 1])
    refused(ValueError, r"x_in: got a single label; it takes \(…, samples", x_in=labels[0])
    refused(ValueError, r"x_out: got a single label; it takes \(…, samples", x_out=labels[0])
