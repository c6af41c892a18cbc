import pytest
import torch
from hypothesis import given

from lightning_relay.information import distinct_states, entropy
from tests.support.brute_force import joint_entropy, rows_of
from tests.support.refusals import refusals_of
from tests.support.strategies import Data, discrete_data


@given(discrete_data())
def test_entropy_equals_the_reference(data: Data) -> None:
    rows = rows_of(data.hidden.tolist(), range(data.hidden.shape[1]))
    assert float(entropy(data.hidden)) == pytest.approx(joint_entropy(rows), abs=1e-12)
    assert int(distinct_states(data.hidden)) == len(set(rows))


def test_a_giant_bit_has_one_bit() -> None:
    bit = torch.tensor([0, 1]).repeat(50)
    assert float(entropy(bit.unsqueeze(1).repeat(1, 300))) == pytest.approx(1.0, abs=1e-12)


def test_units_are_never_packed_into_one_word() -> None:
    hidden = torch.eye(200, dtype=torch.long)
    assert float(entropy(hidden)) == pytest.approx(torch.tensor(200.0).log2().item(), abs=1e-6)
    assert int(distinct_states(hidden)) == 200


def test_leading_indices_and_masks_are_counted_apart() -> None:
    hidden = torch.tensor([[[0], [0], [1], [1]], [[0], [1], [2], [3]]])
    valid = torch.tensor([[True, True, True, True], [True, True, False, False]])
    assert entropy(hidden).tolist() == [1.0, 2.0]
    assert entropy(hidden, valid=valid).tolist() == [1.0, 1.0]
    assert distinct_states(hidden, valid=valid).tolist() == [2, 2]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64])
def test_every_integer_dtype_is_taken(dtype: torch.dtype) -> None:
    assert float(entropy(torch.tensor([[0], [1]]).to(dtype))) == 1.0


def test_codes_at_the_ends_of_their_dtype_do_not_overflow() -> None:
    for dtype in (torch.int8, torch.int64):
        ends = torch.iinfo(dtype)
        hidden = torch.tensor([[ends.min], [ends.max], [0], [ends.min]], dtype=dtype)
        assert float(entropy(hidden)) == pytest.approx(1.5, abs=1e-12)


def test_bad_arguments_say_what_is_taken() -> None:
    codes = torch.zeros(2, 2, 1, dtype=torch.long)
    mask = torch.tensor([[True, True], [False, False]])
    refused = refusals_of(entropy, hidden=codes)
    refused(TypeError, r"hidden: got torch.uint64; it takes int", hidden=codes.to(torch.uint64))
    refused(TypeError, r"float32; it takes integers \(or bool\): discret", hidden=codes.float())
    refused(TypeError, r"hidden: got list; it takes a tensor of integers", hidden=[[0]])
    refused(ValueError, r"got shape \(2,\); it takes \(…, samples, units\)", hidden=codes[0, :, 0])
    refused(ValueError, r"\(2, 2, 0\); .* at least one sample and one unit", hidden=codes[..., :0])
    refused(ValueError, r"hidden: got shape \(2, 0, 1\); it takes .* at least", hidden=codes[:, :0])
    refused(ValueError, r"hidden: got shape \(0, 2, 1\); it takes .* at least", hidden=codes[:0])
    refused(ValueError, r"estimator: got 'bayes'; it takes 'plugin', 'mill", estimator="bayes")
    refused(TypeError, r"valid: got torch.int64; it takes a mask of torch.bool", valid=mask.long())
    refused(ValueError, r"valid: got .* for hidden \(2, 2, 1\); .* 2 samples", valid=mask[:, :1])
    refused(ValueError, r"\(3, 2\), which does not broadcast", valid=mask[[0, 0, 0]])
    refused(ValueError, r"no sample is counted at leading index \(1,\); leave that", valid=mask)
    refused(ValueError, r"weights: no sample is counted; leave", hidden=codes[0], valid=mask[1])
