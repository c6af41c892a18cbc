"""I(X_in; X_out | Y_S) in bits from decoders of X_in, without discretising the states Y."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.arguments import check_label_tensor, checked_units
from lightning_relay.information.options import check_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.information.compiled import Bools, Floats, Ints

_PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-5)
_FIRST_PENALTY = 0.01
_GOOD_ENOUGH = 5e-4
"""Log loss in nats at which no better decoder is looked for."""


def decoded_information(
    x_in: Tensor,
    x_out: Tensor,
    states: Tensor,
    units: Sequence[int],
    *,
    folds: int = 5,
    seed: int = 0,
) -> float:
    r"""Information of input and output given some units' states, estimated by decoders, in bits.

    .. math:: I(X_{in}; X_{out} | Y_S) = H(X_{in} | Y_S) - H(X_{in} | X_{out}, Y_S)

    Each conditional entropy is the mean of :math:`-\log_2 \hat p(x_{in} | \cdot)` over samples that
    the decoder :math:`\hat p` was not fitted to, in cross-validation stratified by X_in. Decoders
    are scikit-learn's logistic regressions with a quadratic penalty. The first sees the states of S
    or nothing. The second sees X_out (one-hot), the states, both or nothing. These features and the
    penalty are chosen for each fold, by cross-validation among its training samples. A decoder that
    sees nothing is the class prior :math:`(n_c + 1/2) / (n + C/2)`. The others count half a sample
    more of each class that their training samples lack and a thousandth of each other class, so no
    loss is infinite. Each feature is standardised and multiplied by the norm of its weights in a
    first fit (adaptive ridge). A penalty that is strong enough for many noise units then costs
    X_out and a few relays little. Held-out states are moved into the range of the training samples.
    A unit that never varies counts as not in S. A constant X_in or X_out gives 0. Values are never
    clipped: noise may make one negative.

    **What the value bounds.** On average, each log loss exceeds its entropy by :math:`e \ge 0`: the
    information that a linear decoder cannot see, or has not learned from so few samples. The value
    exceeds I by :math:`e(Y_S) - e(X_{out}, Y_S)`, so in general it is no bound. It is an *upper*
    bound where the second decoder is exact (X_out determines X_in). It is a *lower* bound where the
    first is exact (S says nothing about X_in, or log p(x_in | y) is linear and well learned). The
    decoder does not see an X_in that is the XOR of two units: with X_out = X_in the value is 1 bit
    and the truth 0. It also misses an XOR of X_out and a unit, and the value is too small. Where
    X_out determines X_in, :math:`I_R` exceeds the truth by :math:`e(Y_0) - e(Y)`: it is an upper
    bound if all units together are decoded exactly, a lower bound if :math:`Y_0` is. The entropy of
    the sample's own class frequencies is :math:`(C - 1) / (2 N \ln 2)` bits too small on average.

    Args:
        x_in: Integer labels of the input, ``(samples,)``.
        x_out: Integer labels of the output, ``(samples,)``.
        states: States of the units, ``(samples, units)``, real or integer, on any device.
        units: Indices of the units S that the information is conditioned on, in any order; may be
            empty.
        folds: Number of parts of the samples, at least 3. One part is held out, another chooses the
            decoder.
        seed: Seed of the division into folds. No other random state is touched.

    Returns:
        The estimate in bits.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
        TypeError: If labels, units, ``folds`` or ``seed`` are not integers, or states are complex.
        ValueError: If shapes, units or ``folds`` do not fit, or a state in S is not finite.

    Example:
        >>> import torch
        >>> bit = torch.tensor([0, 1]).repeat(100)
        >>> round(decoded_information(bit, bit, bit.unsqueeze(1) - 0.5, units=[]), 2)
        1.0
        >>> round(abs(decoded_information(bit, bit, bit.unsqueeze(1) - 0.5, units=[0])), 2)
        0.0

    Source:
        Xu et al., "A theory of usable information under computational constraints", ICLR 2020
        (arXiv 2002.10689), for the difference of log losses. Zou, "The adaptive lasso and its
        oracle properties", J. Am. Stat. Assoc. 101:1418 (2006), here with squares.
    """
    _check_arguments(x_in, x_out, states, folds, seed)
    columns = sorted(checked_units("units", units, states.shape[1]))
    try:
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "estimator='decoder' needs scikit-learn; pip install 'lightning_relay[decoders]'"
        ) from error
    chosen = states.detach()[:, columns].to("cpu", torch.float64).numpy()
    if not np.isfinite(chosen).all():
        raise ValueError(
            "states: got a state of the units that is not finite; it takes finite numbers: "
            "leave out those samples"
        )
    chosen = chosen[:, (chosen != chosen[0]).any(0)]
    chosen = chosen / np.abs(chosen).max(0)  # Squares of extreme states would over- or underflow.
    label, said = (np.unique(x.cpu().numpy(), return_inverse=True)[1] for x in (x_in, x_out))
    if not label.any() or not said.any():
        return 0.0
    answer = np.eye(said.max() + 1)[said]
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(label), generator=generator, device="cpu").numpy()
    fold = np.empty_like(label)
    fold[shuffled[np.argsort(label[shuffled], kind="stable")]] = np.arange(len(label)) % folds
    # More threads slow small fits down. The warnings come with the weakest penalties or with more
    # classes than half the samples. Such a fit is a decoder like any other, and its loss decides.
    tried = [chosen[:, :0], chosen, answer, np.hstack([chosen, answer])]
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        _, without, _, given_out = _held_out_losses(tried, label, fold)
    return (without - given_out) / float(np.log(2))


def _check_arguments(x_in: Tensor, x_out: Tensor, states: Tensor, folds: int, seed: int) -> None:
    check_label_tensor("x_in", x_in)
    check_label_tensor("x_out", x_out)
    if not isinstance(states, torch.Tensor):
        raise TypeError(f"states: got {type(states).__name__}; it takes a tensor of numbers")
    if states.is_complex():
        raise TypeError(f"states: got {states.dtype}; it takes real numbers or integers")
    if states.dim() != 2:
        raise ValueError(f"states: got shape {tuple(states.shape)}; it takes (samples, units)")
    samples = len(states)
    for name, labels in (("x_in", x_in), ("x_out", x_out)):
        if labels.shape != (samples,):
            raise ValueError(
                f"{name}: got shape {tuple(labels.shape)} for states {tuple(states.shape)}; it "
                f"takes (samples,) with {samples} samples"
            )
    check_type("folds", folds, int, "an integer")
    check_type("seed", seed, int, "an integer")
    if folds < 3:
        raise ValueError(f"folds: got {folds}; it takes at least 3 (estimator 'decoder')")
    if samples < folds:
        raise ValueError(f"folds: got {folds} for {samples} samples; it takes at most {samples}")


def _held_out_losses(tried: list[Floats], label: Ints, fold: Ints) -> list[float]:
    """Mean held-out log loss in nats of the best decoder so far, after each of the features tried.

    A decoder fitted without the folds i and j helps to choose for i, by its loss on j, and for j,
    by its loss on i. This needs half the fits of a cross-validation inside every fold.
    """
    folds = range(fold.max() + 1)
    best, held_out, losses = np.full(len(folds), np.inf), np.zeros(len(label)), []
    for features in tried:
        if (best > _GOOD_ENOUGH).any():
            left_out = [(i,) for i in folds] + list(combinations(folds, 2))
            path = {out: _losses(features, label, ~np.isin(fold, out)) for out in left_out}
            for i in folds:
                inner = [path[min(i, j), max(i, j)][:, fold == j] for j in folds if j != i]
                mean = np.hstack(inner).mean(1)
                if mean.min() < best[i]:
                    best[i] = mean.min()
                    held_out[fold == i] = path[i,][mean.argmin(), fold == i]
        losses.append(float(held_out.mean()))
    return losses


def _losses(features: Floats, label: Ints, training: Bools) -> Floats:
    """Log loss in nats of each sample by penalty, ``(penalties, samples)``."""
    from sklearn.linear_model import LogisticRegression

    known = label[training]
    counts = np.bincount(known, minlength=label.max() + 1)
    if features.shape[1] == 0 or (known == known[0]).all():
        prior = (counts + 0.5) / (len(known) + len(counts) / 2)
        return np.tile(-np.log(prior[label]), (len(_PENALTIES), 1))
    train = features[training]
    deviation = train.std(0)
    scaled = features.clip(train.min(0), train.max(0)) - train.mean(0)
    scaled /= np.where(deviation > 1e-12, deviation, np.inf)
    model = LogisticRegression(C=1 / (_FIRST_PENALTY * len(known)), max_iter=200, warm_start=True)
    used = np.linalg.norm(model.fit(scaled[training], known).coef_, axis=0)
    scaled *= used / max(np.sqrt(np.square(used).mean()), 1e-100)
    added = np.where(counts > 0, 1e-3, 0.5)
    chance = np.tile(added, (len(_PENALTIES), len(label), 1))
    for row, penalty in zip(chance, _PENALTIES, strict=True):
        model.set_params(C=1 / (penalty * len(known))).fit(scaled[training], known)
        row[:, model.classes_] += len(known) * model.predict_proba(scaled)
    mixed: Floats = chance[:, np.arange(len(label)), label] / (len(known) + added.sum())
    return -np.log(mixed)
