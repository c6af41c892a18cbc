r"""I(X_in; X_out | Y_S) in bits from decoders of X_in, without discretising the states Y.

Two decoders predict the input's label of samples that they never saw, one from the units in S, one
from X_out and these units; the difference of their log losses is the information. They are
multinomial logistic regressions with a quadratic penalty. All that differ only in the samples held
out are fitted at once, by a limited-memory quasi-Newton method in float64: a greedy order asks for
hundreds of sets of units, and most of a single small fit is overhead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, log
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.arguments import check_label_tensor, checked_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5)
"""Penalties tried besides an infinite one, strong to weak; each fit starts from the one before."""

_FIRST_PENALTY = 0.01
"""Penalty of the first fit, which tells how much each unit is used."""

_GOOD_ENOUGH = 5e-4
"""A mean log loss in nats below which no better penalty is looked for."""

_CLEARLY_WORSE = 0.03
"""Weaker penalties are not tried once the loss is that many nats above the best one so far."""

_BACK_OFFS = (*(10.0 ** (power / 2) for power in range(-6, 9)), inf)
"""How many samples' worth of the class prior may be mixed into p(x_in | x_out)."""

_PRIOR_COUNT = 0.5
"""Added to the count of each class (Krichevsky and Trofimov 1981)."""

_TOLERANCE = 1e-6
"""A fit ends when another step would lower its loss by less than so many nats."""

_ITERATIONS = 500
"""A fit ends after so many steps at the latest; a penalised fit needs tens."""

_HISTORY = 10
"""Steps that the quasi-Newton method remembers."""

_HALVINGS = 40
"""A step is halved at most so often."""

_DECREASE = 1e-4
"""The part of the decrease promised by the slope that a step must attain (Armijo)."""


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
    the decoder :math:`\hat p` was not fitted to, in cross-validation stratified by X_in. With the
    states y of S standardised by the training samples, and a constant among them,

    .. math::
        \hat p(c | y) &\propto \pi(c) \, e^{w_c y} \\
        \hat p(c | o, y) &\propto \pi(c) \, [\tau(c | o) / \pi(c)]^{1 + \delta} \, e^{v_c y}

    where :math:`\pi(c) = (n_c + 1/2) / (n + C/2)` is the prior of class c and :math:`\tau(c | o) =
    (n_{co} + k \pi(c)) / (n_o + k)` is what X_out alone says, from the counts of the training
    samples. The decoders minimise the mean log loss of the training samples plus half the penalty
    times :math:`\sum_{c,j} (w_{cj} / s_j)^2`, or the same of v plus :math:`\delta^2`. So a penalty
    as strong as many noise units need shrinks towards :math:`\tau`, never towards a decoder that
    listens less to X_out, while :math:`\delta = -1` remains possible: units from which X_out itself
    was read off leave nothing for it to add. :math:`s_j` is the norm of unit j's weights in a first
    fit of the same training samples, with all :math:`s_j = 1` and the penalty 0.01, relative to the
    root of the mean square of all units (adaptive ridge): otherwise the penalty that a few relays
    and many noise units agree on would cost the relays a good part of what they say. The penalty is
    chosen anew for each fold and decoder, by cross-validation among the training samples, and may
    be infinite: then the decoder is :math:`\pi` or :math:`\tau`, as it is with no units. k is
    chosen by leaving out one training sample at a time, and may be infinite as well. Held-out
    states are moved into the range of the training samples. A unit that never varies counts as not
    in S; a constant X_in or X_out gives 0. Values are never clipped: noise may make a small one
    negative.

    **What the value bounds.** In expectation each log loss is at least the entropy it stands for,
    by an excess :math:`e \ge 0`: what a linear decoder cannot see, and what it has not learned from
    so few samples. The value exceeds I by :math:`e(Y_S) - e(X_{out}, Y_S)`, so in general it is no
    bound. It is an *upper* bound where the second decoder is exact (X_out determines X_in, both
    entropies with X_out are 0), and a *lower* bound where the first is exact (S is empty or says
    nothing about X_in, or log p(x_in | y) is linear in the states and well learned). If X_in is
    the XOR of two units, each decoder is blind to them: with X_out = X_in the value is 1 bit, the
    truth 0. The other way round an XOR of X_out and a unit is missed and the value is too small.
    :math:`I_R = I(\cdot | Y_0) - I(\cdot | Y)` exceeds the truth by :math:`e(Y_0) - e(X_{out}, Y_0)
    - e(Y) + e(X_{out}, Y)`. Where X_out determines X_in this is :math:`e(Y_0) - e(Y)`: an upper
    bound if all units together are decoded exactly, a lower bound if :math:`Y_0` is; the excess of
    learning partly cancels, that of a nonlinear code does not. In stratified folds the losses of
    the prior itself are those of the sample's own class frequencies; its entropy is
    :math:`(C - 1) / (2 N \ln 2)` bits too small on average, and where S says nothing and X_out
    determines X_in the upper bound is too small by as much.

    Computed on the CPU in float64. The seed draws the folds, from a generator of its own.

    Args:
        x_in: Integer labels of the input, ``(samples,)``.
        x_out: Integer labels of the output, ``(samples,)``.
        states: States of the units, ``(samples, units)``, real or integer.
        units: The units S that the information is conditioned on, in any order; may be empty.
        folds: Number of parts the samples are divided into, from 3: one is held out, another one
            serves to choose the penalty.
        seed: Seed of the division into folds.

    Returns:
        The estimate in bits.

    Raises:
        TypeError: If labels are not integers, states are complex or no tensor, or a unit, folds or
            seed is no integer.
        ValueError: If shapes do not fit, a state in S is not finite, a unit is not there or named
            twice, or there are fewer than 3 folds or fewer samples than folds.

    Example:
        >>> import torch
        >>> bit = torch.tensor([0, 1]).repeat(100)
        >>> unit = bit.unsqueeze(-1) - 0.5
        >>> round(decoded_information(bit, bit, unit, []), 2)
        1.0
        >>> round(abs(decoded_information(bit, bit, unit, [0])), 2)
        0.0

    The difference of two cross-validated log losses as an information, and why it bounds nothing in
    general: Xu et al., "A theory of usable information under computational constraints", ICLR 2020
    (arXiv 2002.10689); Pimentel et al., "Information-theoretic probing for linguistic structure",
    ACL 2020 (arXiv 2004.03061). Preconditioner: Böhning, "Multinomial logistic regression
    algorithm", Ann. Inst. Stat. Math. 44:197 (1992). Adaptive weights: Zou, "The adaptive lasso and
    its oracle properties", J. Am. Stat. Assoc. 101:1418 (2006), here with squares.
    """
    _check_samples(x_in, x_out, states)
    _check_folds(folds, seed, len(x_in))
    columns = sorted(checked_units("units", units, states.shape[1]))
    with torch.no_grad():
        chosen = states.detach()[:, columns].to("cpu", torch.float64)
        if not bool(chosen.isfinite().all()):
            raise ValueError(
                "states: got a state of the units that is not finite; it takes finite numbers: "
                "leave out those samples"
            )
        chosen = chosen[:, (chosen != chosen[0]).any(0)]
        in_classes, label = x_in.cpu().unique(return_inverse=True)
        out_classes, said = x_out.cpu().unique(return_inverse=True)
        if len(in_classes) == 1 or len(out_classes) == 1:
            return 0.0
        samples = _Samples(label, said, chosen, len(in_classes), len(out_classes))
        fold = _fold_of(label, folds, seed)
        without, given_out = (
            float(_held_out_loss(samples, fold, folds, answered=answered))
            for answered in (False, True)
        )
        return (without - given_out) / log(2)


def _check_samples(x_in: Tensor, x_out: Tensor, states: Tensor) -> None:
    check_label_tensor("x_in", x_in)
    check_label_tensor("x_out", x_out)
    if not isinstance(states, torch.Tensor):
        raise TypeError(f"states: got {type(states).__name__}; it takes a tensor of numbers")
    if states.is_complex():
        raise TypeError(f"states: got {states.dtype}; it takes real numbers or integers")
    if states.dim() != 2:
        raise ValueError(f"states: got shape {tuple(states.shape)}; it takes (samples, units)")
    for name, labels in (("x_in", x_in), ("x_out", x_out)):
        if labels.shape != states.shape[:1]:
            raise ValueError(
                f"{name}: got shape {tuple(labels.shape)} for states {tuple(states.shape)}; it "
                f"takes (samples,) with {states.shape[0]} samples"
            )


def _check_folds(folds: int, seed: int, samples: int) -> None:
    for name, number in (("folds", folds), ("seed", seed)):
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"{name}: got {type(number).__name__}; it takes an integer")
    if folds < 3:
        raise ValueError(f"folds: got {folds}; it takes at least 3 (estimator 'decoder')")
    if samples < folds:
        raise ValueError(
            f"folds: got {folds} for {samples} samples; it takes at most as many folds as samples: "
            "give more samples"
        )


def _fold_of(label: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each sample, int64 ``(samples,)``; every class is spread evenly over them."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(label), generator=generator, device="cpu")
    by_class = shuffled[label[shuffled].argsort(stable=True)]
    fold = torch.empty_like(by_class)
    fold[by_class] = torch.arange(len(label), device="cpu") % folds
    return fold


@dataclass(frozen=True)
class _Samples:
    """What the decoders see: labels as 0, 1, … and the states of S.

    Attributes:
        label: X_in, ``(samples,)``, with ``classes`` values.
        said: X_out, ``(samples,)``, with ``answers`` values.
        states: ``(samples, units)``, float64.
    """

    label: Tensor
    said: Tensor
    states: Tensor
    classes: int
    answers: int


def _held_out_loss(samples: _Samples, fold: Tensor, folds: int, *, answered: bool) -> Tensor:
    """Mean held-out log loss of the decoder with or without X_out in nats, a scalar."""
    splits = _Splits.of(
        samples, fold != torch.arange(folds, device="cpu").unsqueeze(1), answered=answered
    )
    loss = splits.base_loss()
    if samples.states.shape[1]:
        penalty = _chosen_penalties(samples, fold, folds, answered=answered)
        if bool(penalty.isfinite().any()):
            splits = splits.with_states(samples)
            fitted = splits.loss(splits.fit(penalty.clamp(max=_PENALTIES[0])))
            loss = torch.where(penalty.isinf(), loss, fitted)
    return (loss * splits.held_out).sum() / len(fold)


def _chosen_penalties(samples: _Samples, fold: Tensor, folds: int, *, answered: bool) -> Tensor:
    """The best penalty for each fold held out, ``(folds, 1)``.

    A decoder fitted without the folds i and j helps to choose for i (by its loss on j) and for j
    (by its loss on i), and saw neither: half the fits of a cross-validation inside every fold.
    """
    first, second = torch.combinations(torch.arange(folds, device="cpu")).T.unsqueeze(-1)
    splits = _Splits.of(samples, (fold != first) & (fold != second), answered=answered)
    # The samples of j count for i, those of i for j.
    chosen_for = torch.where(fold == first, second, first).gather(1, splits.tested)
    counted = torch.nn.functional.one_hot(chosen_for, folds) * splits.held_out.unsqueeze(-1)

    def by_fold(loss: Tensor) -> Tensor:
        return torch.einsum("st,stf->f", loss, counted) / counted.sum((0, 1))

    best_loss = by_fold(splits.base_loss())
    best = torch.full_like(best_loss, inf)
    if bool((best_loss > _GOOD_ENOUGH).any()):
        splits = splits.with_states(samples)
        parameters = None
        for penalty in _PENALTIES:
            parameters = splits.fit(best_loss.new_full((len(first), 1), penalty), parameters)
            loss = by_fold(splits.loss(parameters))
            best = torch.where(loss < best_loss, penalty, best)
            best_loss = torch.minimum(loss, best_loss)
            if bool(((loss > best_loss + _CLEARLY_WORSE) | (best_loss < _GOOD_ENOUGH)).all()):
                break
    return best.unsqueeze(-1)


@dataclass(frozen=True)
class _Part:
    """The training or the held-out samples of several splits.

    Attributes:
        features: States, ``(splits, samples, columns)``; no column until they are needed.
        label: Classes, ``(splits, samples, 1)``.
        base: Logits without units: prior or table of X_out, ``(splits, samples, classes)``.
        excess: By how much the table's logits exceed the prior's; 0 without X_out.
    """

    features: Tensor
    label: Tensor
    base: Tensor
    excess: Tensor

    def change(self, parameters: Tensor) -> Tensor:
        """What units and exponent add to the logits, ``(splits, samples, classes)``."""
        weights = parameters[:, :-1].unflatten(1, (self.features.shape[2], self.base.shape[2]))
        exponent = parameters[:, -1:, None]
        return torch.baddbmm(self.excess * exponent, self.features, weights)

    def loss(self, logits: Tensor) -> Tensor:
        """Log loss of each sample in nats, ``(splits, samples)``."""
        return logits.log_softmax(-1).gather(-1, self.label).squeeze(-1).neg()


@dataclass(frozen=True)
class _Splits:
    """A decoder of several splits into training and held-out samples, all fitted at once.

    The columns of features are turned so that they do not correlate in the training samples; the
    penalty does not notice. Splits with fewer samples are filled up with samples of weight 0.

    Attributes:
        trained: Training samples, ``(splits, training)``.
        tested: Held-out samples, ``(splits, tested)``.
        weight: Weight of each training sample, ``(splits, training)``; sums to 1.
        held_out: 1 for a held-out sample and 0 where the split is filled up, like ``tested``.
        power: Mean square of each column of features in training, ``(splits, columns)``.
        training: The training samples.
        testing: The held-out samples.
    """

    trained: Tensor
    tested: Tensor
    weight: Tensor
    held_out: Tensor
    power: Tensor
    training: _Part
    testing: _Part

    @classmethod
    def of(cls, samples: _Samples, marked: Tensor, *, answered: bool) -> _Splits:
        """Splits whose training samples are ``marked`` ``(splits, samples)``, without features."""
        trained, in_training = _filled_up(marked)
        tested, held_out = _filled_up(~marked)
        prior, table = _tables(samples, marked)
        split = torch.arange(len(marked), device="cpu").unsqueeze(1)

        def part(members: Tensor) -> _Part:
            by_prior = prior.unsqueeze(1).expand(*members.shape, samples.classes)
            by_table = table[split, samples.said[members]] if answered else by_prior
            label = samples.label[members].unsqueeze(-1)
            nothing = by_prior.new_zeros(*members.shape, 0)
            return _Part(nothing, label, by_table, by_table - by_prior)

        return cls(
            trained=trained,
            tested=tested,
            weight=in_training / in_training.sum(1, keepdim=True),
            held_out=held_out,
            power=prior.new_zeros(len(marked), 0),
            training=part(trained),
            testing=part(tested),
        )

    def with_states(self, samples: _Samples) -> _Splits:
        """The same with states as features, each unit scaled by how much a first fit uses it."""
        train, test = _standardised(samples.states, self.trained, self.tested, self.weight)
        first, axes = self._with_features(train, test)
        parameters = first.fit(self.weight.new_full((len(self.weight), 1), _FIRST_PENALTY))
        scale = (axes @ parameters[:, :-1].unflatten(1, (axes.shape[2], -1))).norm(dim=2)
        scale = scale / scale[:, :-1].square().mean(1, keepdim=True).sqrt().clamp(min=1e-300)
        scale[:, -1] = 1
        scale = scale.unsqueeze(1)
        return self._with_features(train * scale, test * scale)[0]

    def _with_features(self, train: Tensor, test: Tensor) -> tuple[_Splits, Tensor]:
        """The same with the features in axes that do not correlate in training, and these axes."""
        axes, power = _axes(train * self.weight.sqrt().unsqueeze(-1))
        training = replace(self.training, features=train @ axes)
        testing = replace(self.testing, features=test @ axes)
        return replace(self, power=power, training=training, testing=testing), axes

    def base_loss(self) -> Tensor:
        """Log loss of the held-out samples without units in nats, ``(splits, tested)``."""
        return self.testing.loss(self.testing.base)

    def loss(self, parameters: Tensor) -> Tensor:
        """Log loss of the held-out samples in nats, ``(splits, tested)``."""
        return self.testing.loss(self.testing.base + self.testing.change(parameters))

    def fit(self, penalty: Tensor, start: Tensor | None = None) -> Tensor:
        """Fit the decoder of each split, by a preconditioned L-BFGS method.

        Logits are linear in the parameters, so the search along a step needs no further product
        with the features.

        Args:
            penalty: The penalties, ``(splits, 1)``, above 0.
            start: Parameters to start from; default: 0, the decoder without units.

        Returns:
            ``(splits, columns * classes + 1)``: for each column and class its weight, then what is
            added to the exponent of the table.
        """
        classes = self.training.base.shape[-1]
        size = self.power.shape[1] * classes + 1
        # An upper bound of the Hessian's diagonal (Böhning 1992).
        table = (self.training.excess.square().sum(-1) * self.weight).sum(-1, keepdim=True)
        bound = torch.cat([self.power.repeat_interleave(classes, dim=1), table], dim=1) / 2
        scale = (bound + penalty).reciprocal()
        parameters = self.power.new_zeros(len(self.power), size) if start is None else start
        logits = self.training.base + self.training.change(parameters)
        loss, residual = self._penalised(logits, parameters, penalty)
        gradient = self._gradient(residual, parameters, penalty)
        memory: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(_ITERATIONS):
            direction = -_newton_step(gradient, scale, memory)
            slope = (gradient * direction).sum(-1, keepdim=True)
            active = -slope > 2 * _TOLERANCE
            if not bool(active.any()):
                break
            direction = torch.where(active, direction, 0.0)
            slope = torch.where(active, slope, 0.0)
            along = self.training.change(direction)
            length = torch.ones_like(slope)
            for _ in range(_HALVINGS):
                moved = parameters + length * direction
                new_logits = torch.addcmul(logits, along, length.unsqueeze(-1))
                new_loss, residual = self._penalised(new_logits, moved, penalty)
                poor = new_loss > loss + _DECREASE * length * slope + 1e-13
                if not bool(poor.any()):
                    break
                length = torch.where(poor, length / 2, length)
            new_gradient = self._gradient(residual, moved, penalty)
            memory = [
                *memory[1 - _HISTORY :],
                _remembered(length * direction, new_gradient - gradient),
            ]
            parameters, logits, loss, gradient = moved, new_logits, new_loss, new_gradient
        return parameters

    def _penalised(
        self, logits: Tensor, parameters: Tensor, penalty: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Penalised training loss in nats, ``(splits, 1)``, and its slope in the logits."""
        label = self.training.label
        log_p = logits.log_softmax(-1)
        loss = -(log_p.gather(-1, label).squeeze(-1) * self.weight).sum(-1, keepdim=True)
        loss = loss + penalty / 2 * parameters.square().sum(-1, keepdim=True)
        residual = log_p.exp_().scatter_add_(-1, label, log_p.new_tensor(-1.0).expand(label.shape))
        return loss, residual.mul_(self.weight.unsqueeze(-1))

    def _gradient(self, residual: Tensor, parameters: Tensor, penalty: Tensor) -> Tensor:
        by_column = (self.training.features.mT @ residual).flatten(1)
        by_table = (residual * self.training.excess).sum((1, 2)).unsqueeze(1)
        return torch.cat([by_column, by_table], dim=1) + penalty * parameters


def _filled_up(marked: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the marked samples of each split, filled up with others, and 1 where marked."""
    number = marked.sum(1, keepdim=True)
    most = int(number.max())
    first_marked = marked.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return first_marked[:, :most], (torch.arange(most, device="cpu") < number).double()


def _standardised(
    states: Tensor, trained: Tensor, tested: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Training and held-out states with mean 0 and variance 1 in training, and a column of ones.

    A unit that is constant in training is 0 throughout: it can tell nothing.
    """
    train, test = states[trained], states[tested]
    counted = weight.unsqueeze(-1) > 0
    low = torch.where(counted, train, inf).amin(1, keepdim=True)
    high = torch.where(counted, train, -inf).amax(1, keepdim=True)
    # Scaled to [0, 1] first: squares of very large or small states would over- or underflow.
    spread = high / 2 - low / 2
    varies = spread > 1e-12 * torch.maximum(low.abs(), high.abs())
    unit = torch.where(varies, spread, 1.0)
    train, test = (
        torch.where(varies, (part.clamp(low, high) / 2 - low / 2) / unit, 0.0)
        for part in (train, test)
    )
    weight = weight.unsqueeze(-1)
    mean = (train * weight).sum(1, keepdim=True)
    deviation = ((train - mean).square() * weight).sum(1, keepdim=True).sqrt()
    deviation = torch.where(varies, deviation, 1.0)
    train, test = (
        torch.cat([(part - mean) / deviation, torch.ones_like(part[..., :1])], dim=-1)
        for part in (train, test)
    )
    return train, test


def _axes(weighted: Tensor) -> tuple[Tensor, Tensor]:
    """Axes in which the features do not correlate, and the mean square along each.

    With more columns than samples only as many axes as these samples span: the penalty leaves the
    weights along all others at 0.
    """
    if weighted.shape[2] <= weighted.shape[1]:
        power, axes = torch.linalg.eigh(weighted.mT @ weighted)
        return axes, power.clamp(min=0)
    power, across = torch.linalg.eigh(weighted @ weighted.mT)
    spanned = power > 1e-12 * power[:, -1:]
    power = torch.where(spanned, power, 0.0)
    length = torch.where(spanned, power, inf).sqrt().unsqueeze(1)
    return weighted.mT @ (across / length), power


def _tables(samples: _Samples, training: Tensor) -> tuple[Tensor, Tensor]:
    """Log π, ``(splits, classes)``, and log τ, ``(splits, answers, classes)``."""
    shape = samples.answers, samples.classes
    cell = samples.said * samples.classes + samples.label
    counts = torch.nn.functional.one_hot(cell, shape[0] * shape[1]).double()
    counts = (training.double() @ counts).unflatten(1, shape)
    prior = counts.sum(1) + _PRIOR_COUNT
    prior /= prior.sum(1, keepdim=True)
    answered = counts.sum(2, keepdim=True)
    expected = prior.unsqueeze(1)
    best_loss, best = torch.full((len(training), 1, 1), inf).double(), expected
    for back_off in reversed(_BACK_OFFS):
        if back_off == inf:
            table, one_left_out = expected.expand_as(counts), expected.expand_as(counts)
        else:
            table = (counts + back_off * expected) / (answered + back_off)
            fewer = (counts - 1).clamp(min=0) + back_off * expected
            one_left_out = fewer / ((answered - 1).clamp(min=0) + back_off)
        loss = -(counts * one_left_out.log()).sum((1, 2), keepdim=True)
        best = torch.where(loss < best_loss, table, best)
        best_loss = torch.minimum(loss, best_loss)
    return prior.log(), best.log()


def _remembered(step: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step, the change of the gradient along it and the reciprocal of their product."""
    product = (step * change).sum(-1, keepdim=True)
    # A fit that has ended makes no steps any more while the others go on.
    return step, change, torch.where(product > 0, product.clamp(min=1e-300).reciprocal(), 0.0)


def _newton_step(
    gradient: Tensor, scale: Tensor, memory: list[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """The L-BFGS estimate of the inverse Hessian times the gradient, for each fit by itself."""
    result = gradient
    amounts = []
    for step, change, inverse in reversed(memory):
        amounts.append(inverse * (step * result).sum(-1, keepdim=True))
        result = result - amounts[-1] * change
    result = result * scale
    if memory:
        _, change, inverse = memory[-1]
        size = inverse * (change.square() * scale).sum(-1, keepdim=True)
        result = result / torch.where(size > 0, size, 1.0)
    for (step, change, inverse), amount in zip(memory, reversed(amounts), strict=True):
        result = result + step * (amount - inverse * (change * result).sum(-1, keepdim=True))
    return result
