import numpy as np
import pytest
import torch
from hypothesis import given

from lightning_relay import mutual_information
from lightning_relay.information.each import given_each_unit
from lightning_relay.information.options import Estimator
from tests.support import brute_force
from tests.support.strategies import Data, discrete_data


@pytest.mark.parametrize("estimator", ["plugin", "miller_madow", "grassberger", "chao_shen"])
@pytest.mark.parametrize(
    ("units", "levels", "samples"), [(1, 2, 30), (2, 2, 30), (5, 3, 60), (9, 300, 50), (70, 2, 90)]
)
def test_each_unit_agrees_with_the_measure_of_given_units(
    units: int, levels: int, samples: int, estimator: Estimator
) -> None:
    generator = torch.Generator().manual_seed(units)
    x_in = torch.randint(4, (samples,), generator=generator)
    x_out = torch.where(torch.rand(samples, generator=generator) < 0.7, x_in, 0)
    hidden = torch.randint(levels, (2, samples, units), generator=generator)
    valid = torch.rand(2, samples, generator=generator) < 0.8
    alone, others = given_each_unit(x_in, x_out, hidden, valid=valid, estimator=estimator)
    for index, unit in np.ndindex(2, units):
        kept = valid[index]
        for found, known in (
            (alone, [unit]),
            (others, [other for other in range(units) if other != unit]),
        ):
            expected = mutual_information(
                x_in[kept],
                x_out[kept],
                given=hidden[index, kept][:, known] if known else None,
                estimator=estimator,
            )
            assert found[index, unit] == pytest.approx(float(expected), abs=1e-9)


@given(discrete_data(max_units=7))
def test_each_unit_agrees_with_joint_entropies(data: Data) -> None:
    alone, others = given_each_unit(*data)
    x_in, x_out, hidden = (part.tolist() for part in data)
    units = range(data.hidden.shape[1])
    for unit in units:
        for found, known in ((alone, [unit]), (others, [own for own in units if own != unit])):
            states = brute_force.rows_of(hidden, known)
            expected = brute_force.conditional_information(x_in, x_out, states)
            assert float(found[unit]) == pytest.approx(expected, abs=1e-9)
