"""The callback that shows, while a recurrent network trains, what breaks without which units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_relay.ablation.passes import (
    OF_STATES,
    DataloaderPass,
    KnockoutPass,
    PassOptions,
)
from lightning_relay.ablation.report import KnockoutReport
from lightning_relay.ablation.results import Measured, knockout_report
from lightning_relay.ablation.runs import MixedSequencesError
from lightning_relay.ablation.scalars import knockout_scalars
from lightning_relay.ablation.sets import (
    Sets,
    along_orders,
    at_steps,
    check_known,
    check_same_units,
    check_selection,
    counting_all,
    keys_of,
    named_sets,
    single_units,
    top_relays,
)
from lightning_relay.ablation.tensorboard import write_knockout_report
from lightning_relay.callbacks.evaluations import (
    check_schedule,
    is_due,
    numbers_of_batches,
    raise_empty,
    suffix_of,
)
from lightning_relay.callbacks.progress import Progress
from lightning_relay.callbacks.relay_information import RelayInformationCallback
from lightning_relay.callbacks.reporting_callback import ReportingCallback
from lightning_relay.knockout.arguments import checked_steps, make_clamps
from lightning_relay.knockout.clamps import check_within
from lightning_relay.knockout.context import check_kind
from lightning_relay.reading.concepts import JOINT, Concepts, check_concepts
from lightning_relay.recurrent.layers import (
    Layers,
    State,
    StateKey,
    check_layers,
    check_modules,
    check_states,
    recurrent_layers,
    recurrent_modules,
    wanted_keys,
)
from lightning_relay.relay.report import RelayReport
from lightning_relay.rerun import Stage

_TOP, _RANDOM, _BOOTSTRAPS, _REFERENCE = 3, 5, 100, 1024

_CHECKED_SETS = 2
"""The sanity check runs so many sets, on one batch of each dataloader."""


class KnockoutCallback(ReportingCallback[KnockoutReport]):
    """Measures and logs what a recurrent model cannot do when units are taken away.

    Right after the model's own ``validation_step`` or ``test_step``, the step is run again on the
    same batch: once as it was and once for each set of units that is knocked out, as by
    ``knocked_out``. The step runs on a twin of the module that shares its parameters; what it logs,
    draws and keeps is not seen. So the model, its training, its random streams, metrics and logs
    are what they are without the callback. A step must depend on its batch alone: one that gives
    something else when it is run again is refused.

    Damage is what is lost: the accuracy without knock-out minus that with it, of all samples, of
    each class and of each concept, with 95 % intervals. Results are kept in ``reports``, saved,
    drawn in TensorBoard and, some of them, logged under ``{prefix}/`` (``{prefix}_test/`` in
    testing), followed by ``/dataloader_{i}`` where there are several dataloaders:

    - ``accuracy``: without knock-out; ``samples``, ``sets``: numbers of what was run.
    - ``{layer}/largest_damage``, ``{layer}/mean_damage``: to the accuracy by single units.
    - ``{layer}/{concept}/score_correlation``: rank correlation of the unit scores of the relay
      analysis with the damage of single units.
    - ``{layer}/{concept}/area_most_first``, ``…/area_least_first``, ``…/area_random``: mean
      accuracy while units are knocked out one after the other along the relay order.
    - ``{layer}/{concept}/top_damage``, ``…/random_damage``: damage to a concept by the units that
      relay most of it, and by as many drawn at random.
    - ``{metric}``, ``{metric}/largest_damage``: of a metric of the user's.

    Args:
        units: What is knocked out. ``"each"`` unit alone; ``"greedy"``: one unit after the other
            along the newest relay order, from both ends and in random orders; ``"concept"``: the
            units that relay most of each concept, and as many at random; or sets by name, such as
            ``{"pair": {"rnn.l0": [3, 5]}}``.
        modules: Dotted names of the recurrent modules; default: all there are.
        layers: The ``"last"`` layer of each module, or ``"all"``; sets by name name their own.
        states: ``"hidden"`` states, ``"cell"`` states of LSTMs, or both.
        value: What the units are held at: ``"zero"``, a number, ``"mean"``, ``"mean_per_step"`` or
            ``"resample"`` of the states of the first ``reference_samples`` sequences.
        steps: When, as of ``knocked_out``: default always; ``"each"`` with ``units="each"``: every
            unit at every step.
        metric: A torchmetrics.Metric or MetricCollection of class scores and labels, measured
            beside the accuracies; or the name of a number that the step logs, or ``"loss"`` for
            what it returns, measured instead of accuracies unless ``target`` is named: the mean
            over the batches, weighted by their numbers of samples, whatever it is logged with.
        mode: Whether a number that the step logs or returns is best at its ``"min"`` or ``"max"``.
        target: Where the class label of each sequence stands, as of ``RelayInformationCallback``.
        prediction: Where the class scores come from, as of ``RelayInformationCallback``.
        lengths: Lengths of sequences that are padded and not packed, as of
            ``RelayInformationCallback``; only for values made of recorded states.
        concepts: As of ``RelayInformationCallback``; default: those of the one in the Trainer, or
            ``"joint"``.
        relay: Prefix of the RelayInformationCallback in the Trainer whose newest report gives
            orders and unit scores; default: that of the first. Sets follow the report that there
            is when an evaluation begins, so that of the one before.
        report: A relay report, or the path of one, to be taken instead.
        relay_concepts: Concepts of the relay report whose orders are followed; default: the first
            for ``"greedy"`` and all for ``"concept"``.
        top: Number of units of a set of ``"concept"``.
        n_random: Number of random orders, or of random sets for each concept, for comparison.
        n_bootstraps: Number of resamples for intervals of ``metric``; 0 for none. A Metric is
            computed anew for each and every set, from class scores that are kept for it.
        max_batches: Number of batches of each dataloader that are run again at most.
        max_sets: Number of sets at most. Of single units a fair sample is taken; along orders
            fewer numbers of units; for concepts fewer random sets. What is left out is counted.
        reference_samples: Number of sequences whose states make the value: the first, in whole
            batches; the first batch where the number of batches is not known.
        together: Let what comes after the recurrent module run for several sets at once, as one
            larger batch, where that gives the same, as some that are run alone too tell in every
            batch.
        seed: Seed of random orders, sets, samples of sets, drawn values and resamples.
        every_n_epochs: In fitting, analyse the validation of every n-th epoch.
        stages: Which of ``"validate"`` and ``"test"`` to analyse.
        prefix: First part of all tags.
        dirpath: Where reports are saved; default: ``knockout_reports`` in the directory of the
            Trainer's first logger. Without that and a logger, and in a ``fast_dev_run``, nothing is
            saved.

    Attributes:
        reports: The reports so far, the newest last.

    Raises:
        TypeError: If an argument or the module is of a wrong type, or the module cannot be copied.
        ValueError: If an argument is out of its range, something cannot be found in model, batch or
            step, there is no relay report to follow, or the step gives something else when it is
            run again; says what there is and which argument decides.

    Example:
        >>> from lightning_relay import KnockoutCallback
        >>> callback = KnockoutCallback("each", every_n_epochs=5, max_batches=4)
        >>> callback.reports
        []

    Source:
        Hintze, Najam and Schossau, arXiv 2510.01271 (2025); Hintze and Adami, Entropy 25(3):401
        (2023).
    """

    analysis = "knock-out"
    directory = "knockout_reports"
    _report = KnockoutReport

    def __init__(
        self,
        units: str | Mapping[str, Mapping[str, Sequence[int]]] = "each",
        *,
        modules: Sequence[str] | None = None,
        layers: Layers = "last",
        states: Sequence[State] = ("hidden",),
        value: float | str = "zero",
        steps: int | Sequence[int] | slice | str | None = None,
        metric: Metric | MetricCollection | str | None = None,
        mode: Literal["min", "max"] = "min",
        target: Callable[[Any], Tensor] | int | str | None = None,
        prediction: Callable[[Any], Tensor] | str | None = None,
        lengths: Callable[[Any], Tensor] | int | str | None = None,
        concepts: str | Mapping[str, Callable[[int], Hashable]] | None = None,
        relay: str | None = None,
        report: RelayReport | str | Path | None = None,
        relay_concepts: Sequence[str] | None = None,
        top: int = _TOP,
        n_random: int = _RANDOM,
        n_bootstraps: int = _BOOTSTRAPS,
        max_batches: int | None = None,
        max_sets: int | None = 256,
        reference_samples: int = _REFERENCE,
        together: bool = True,
        seed: int = 0,
        every_n_epochs: int = 1,
        stages: Sequence[Stage] = ("validate", "test"),
        prefix: str = "knockout",
        dirpath: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_selection(units)
        check_modules(modules)
        check_layers(layers)
        check_states(states)
        _check_value(value)
        if steps == "each" and units != "each":
            raise ValueError(f"steps: got 'each' with units={units!r}; it goes with units='each'")
        if steps != "each":
            checked_steps(steps)
        if mode not in ("min", "max"):
            raise ValueError(f"mode: got {mode!r}; it takes 'min' or 'max'")
        if concepts is not None:
            check_concepts(concepts)
        if isinstance(relay_concepts, str):
            raise TypeError(f"relay_concepts: got the string {relay_concepts!r}; it takes a list")
        _check_counts(
            top=(top, 1),
            n_random=(n_random, 1),
            n_bootstraps=(n_bootstraps, 0),
            max_batches=(max_batches, 1),
            max_sets=(max_sets, 1),
            reference_samples=(reference_samples, 2),
        )
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed: got {seed!r}; it takes an integer")
        check_schedule(every_n_epochs, stages, prefix)
        follows = units in ("greedy", "concept")
        by_name = isinstance(metric, str)
        chosen = isinstance(units, str)
        of_states = f"value= one of {', '.join(OF_STATES)}"
        _check_used(
            relay=(relay, report is None, "a report that is not given by report="),
            relay_concepts=(relay_concepts, follows, "units='greedy' or 'concept'"),
            modules=(modules, chosen, "units='each', 'greedy' or 'concept'"),
            layers=(layers == "all" or None, chosen, "units='each', 'greedy' or 'concept'"),
            states=(
                tuple(states) != ("hidden",) or None,
                chosen,
                "units='each', 'greedy' or 'concept'",
            ),
            lengths=(lengths, value in OF_STATES, of_states),
            reference_samples=(
                reference_samples != _REFERENCE or None,
                value in OF_STATES,
                of_states,
            ),
            top=(top != _TOP or None, units == "concept", "units='concept'"),
            n_random=(n_random != _RANDOM or None, follows, "units='greedy' or 'concept'"),
            n_bootstraps=(n_bootstraps != _BOOTSTRAPS or None, metric is not None, "metric="),
            prediction=(prediction, not by_name or target is not None, "class labels: target="),
            concepts=(concepts, not by_name or target is not None, "class labels: target="),
            mode=(mode == "max" or None, by_name, "metric= the name of a number"),
        )
        self.units = units
        self.modules = modules
        self.layers = layers
        self.states = tuple(states)
        self.value = value
        self.steps = steps
        self.metric = metric
        self.mode = mode
        self.target = target
        self.prediction = prediction
        self.lengths = lengths
        self.concepts = concepts
        self.relay = relay
        self.report = report
        self.relay_concepts = relay_concepts
        self.top = top
        self.n_random = n_random
        self.n_bootstraps = n_bootstraps
        self.max_batches = max_batches
        self.max_sets = max_sets
        self.reference_samples = reference_samples
        self.together = together
        self.seed = seed
        self.every_n_epochs = every_n_epochs
        self.stages = tuple(stages)
        self.prefix = prefix
        self.dirpath = dirpath
        self._metrics = _metrics_by_name(metric)
        self._given = _loaded(report) if isinstance(report, str | Path) else report
        self._relay: RelayInformationCallback | None = None
        self._followed: list[RelayReport | None] = []
        self._pass: KnockoutPass | None = None
        self._progress: Progress | None = None
        self._together = together

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what the Trainer brings, and find the relay callback."""
        super().setup(trainer, pl_module, stage)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        relays = [other for other in callbacks if isinstance(other, RelayInformationCallback)]
        prefixes = [other.prefix for other in relays]
        if self.relay is not None and self.relay not in prefixes:
            raise ValueError(
                f"relay: no RelayInformationCallback with the prefix {self.relay!r} in the "
                f"Trainer; it has: {', '.join(map(repr, prefixes)) or 'none'}"
            )
        place = 0 if self.relay is None else prefixes.index(self.relay)
        self._relay = relays[place] if relays else None
        if self.units in ("greedy", "concept") and self._relay is None and self._given is None:
            raise ValueError(
                f"units: {self.units!r} follows the orders of a relay report, and there is none; "
                "add a RelayInformationCallback to the Trainer, or name a report with report="
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the names of modules, layers and units before any training."""
        self._check_model(pl_module)

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint, made of what it measures and where."""
        return self._generate_state_key(
            prefix=self.prefix,
            units=self.units if isinstance(self.units, str) else list(self.units),
            modules=self.modules,
            layers=self.layers,
            states=self.states,
            value=self.value,
            steps=str(self.steps),
        )

    @property
    def _follows(self) -> bool:
        return self.units in ("greedy", "concept")

    def _newest_relay(self, dataloader: int) -> RelayReport | None:
        """The report given, or the newest of a dataloader, or else of any."""
        if self._given is not None:
            return self._given
        reports = [] if self._relay is None else self._relay.reports
        own = [report for report in reports if report.dataloader == dataloader]
        newest = own or reports
        return newest[-1] if newest else None

    def _check_model(self, pl_module: LightningModule) -> None:
        """Raise unless the units can be knocked out; gives nothing."""
        keys = self._layers_of(pl_module)
        names = dict.fromkeys(StateKey.parse(layer).module for layer in keys)
        for name, module in recurrent_modules(pl_module, list(names)).items():
            try:
                check_kind(name, module)
            except ValueError as error:
                raise ValueError(f"{error}. Name others with modules=") from error
        if not isinstance(self.units, str):
            for units in self.units.values():
                make_clamps(pl_module, units)
        if self._given is not None:
            check_same_units(self._given, keys)
            if self._follows:
                self._along(self._given, keys)

    def _layers_of(self, pl_module: LightningModule) -> dict[str, int]:
        """Numbers of units of the layers of which units are knocked out, by key."""
        units = recurrent_layers(pl_module, self.modules)
        if not isinstance(self.units, str):
            named = dict.fromkeys(layer for own in self.units.values() for layer in own)
            make_clamps(pl_module, {layer: [0] for layer in named})  # checks the names
            return {layer: recurrent_layers(pl_module)[layer] for layer in named}
        layers = {
            str(key): units[str(key)]
            for name, module in recurrent_modules(pl_module, self.modules).items()
            for key in wanted_keys(name, module, self.layers, self.states)
        }
        if not layers:
            raise ValueError(
                f"states: got {self.states!r}, and none of {', '.join(map(repr, units))} is of "
                "such states; it takes 'hidden', or 'cell' where there is an LSTM"
            )
        return layers

    def _start(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if not is_due(trainer, stage, self.stages, self.every_n_epochs):
            return
        dataloaders = range(len(numbers_of_batches(trainer, stage)))
        self._followed = [self._newest_relay(dataloader) for dataloader in dataloaders]
        if self._follows and None in self._followed and not trainer.sanity_checking:
            if trainer.state.fn == TrainerFn.FITTING:
                self._say(
                    f"Knock-outs: {self.units!r} follows relay orders, and there is no relay "
                    "report yet; they begin with the first evaluation after one.",
                    rank_zero_info,
                )
                return
            raise ValueError(
                f"units: {self.units!r} follows the orders of a relay report, and there is none "
                f"yet: it is made at the end of an evaluation. Run trainer.{stage} twice, or name "
                "a report with report="
            )
        self._check_model(pl_module)
        layers = self._layers_of(pl_module)
        options = PassOptions(
            choose_sets=partial(self._choose_sets, layers, checked_only=trainer.sanity_checking),
            layers=list(layers),
            needs_steps=self.steps == "each",
            value=self.value,
            steps=None
            if self.steps == "each"
            else cast("slice | Sequence[int] | None", self.steps),
            target=self.target,
            labelled=self.target is not None or not isinstance(self.metric, str),
            prediction=self.prediction,
            lengths=self.lengths,
            measured=self.metric if isinstance(self.metric, str) else None,
            keep_scores=bool(self._metrics),
            together=self._together,
            reference_samples=self.reference_samples,
            max_batches=1 if trainer.sanity_checking else self.max_batches,
            seed=self.seed,
        )
        self._progress = Progress(trainer, partial(self._say, how=rank_zero_info, about="time"))
        self._pass = KnockoutPass(
            pl_module,
            trainer,
            stage,
            options,
            num_batches=numbers_of_batches(trainer, stage),
            progress=self._progress.advance,
        )

    def _choose_sets(
        self,
        layers: Mapping[str, int],
        dataloader: int,
        steps: Mapping[str, int] | None,
        *,
        checked_only: bool,
    ) -> Sets:
        limits: dict[str, Any] = {"max_sets": self.max_sets, "seed": self.seed}
        if checked_only:
            limits["max_sets"] = _CHECKED_SETS
        if not isinstance(self.units, str):
            sets = named_sets(self.units)
            if self.max_sets is not None and len(sets.sets) > self.max_sets:
                raise ValueError(
                    f"max_sets: got {self.max_sets}, and {len(sets.sets)} sets by name; it takes "
                    "at least as many, or None"
                )
            kept = _CHECKED_SETS if checked_only else None
            return dataclasses.replace(sets, sets=sets.sets[:kept])
        if self.units == "each" or checked_only:
            return single_units(layers, steps=steps, **limits)
        relay = self._followed[dataloader]
        assert relay is not None
        return self._along(relay, layers)

    def _along(self, relay: RelayReport, layers: Mapping[str, int]) -> Sets:
        """Sets that follow the orders of a relay report."""
        options: dict[str, Any] = {
            "concepts": self.relay_concepts,
            "n_random": self.n_random,
            "max_sets": self.max_sets,
            "seed": self.seed,
        }
        if self.units == "greedy":
            sets = along_orders(relay, layers, **options)
        else:
            sets = top_relays(relay, layers, top=self.top, **options)
        check_known(self._concepts, [some.concept for some in sets.sets if some.concept])
        return sets

    def _before_step(self, batch: Any, dataloader: int) -> None:
        if self._pass is not None:
            self._pass.before_step(batch, dataloader)

    def _after_step(self, outputs: Any, batch_idx: int, dataloader: int) -> None:
        if self._pass is None:
            return
        try:
            self._pass.after_step(batch_idx, dataloader)
        except MixedSequencesError as error:
            self._stop()
            self._together = False
            rank_zero_warn(
                f"together: {error}. There is no knock-out report of this evaluation; from the "
                "next on every set runs by itself, as with together=False"
            )

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.close()
        self._pass = self._progress = None

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        run = self._pass
        if run is None:
            return
        run.end()
        self._stop()
        if not run.dataloaders:
            raise_empty(stage)
        for dataloader, own in run.dataloaders.items():
            self._check_steps(own, sanity_checking=trainer.sanity_checking)
            report = self._reported(own, dataloader, self._layers_of(pl_module))
            if trainer.sanity_checking:
                continue
            report = dataclasses.replace(
                report,
                stage=stage,
                epoch=trainer.current_epoch,
                global_step=trainer.global_step,
                dataloader=dataloader,
            )
            scalars, suffix = knockout_scalars(report), suffix_of(trainer, stage, dataloader)
            self._log(trainer, pl_module, report, scalars, write_knockout_report, suffix)

    def _check_steps(self, own: DataloaderPass, *, sanity_checking: bool) -> None:
        assert own.evaluation is not None
        assert own.sets is not None
        modules = dict.fromkeys(key.module for some in own.sets.sets for key in keys_of(some))
        longest = own.evaluation.longest
        for module in modules:
            if longest.get(module) == 0:
                raise ValueError(
                    f"modules: {module!r} was not called in the step, so nothing was knocked out; "
                    "name the modules that are with modules="
                )
        if self.steps is None or self.steps == "each":
            return
        try:
            for module in modules:
                if module in longest:
                    check_within(checked_steps(self.steps), longest[module])
        except ValueError as error:
            if not sanity_checking:
                raise
            raise ValueError(
                f"{error}. These are the sequences of the sanity check; if later ones are longer, "
                "check them all with the Trainer's num_sanity_val_steps=-1"
            ) from error

    def _reported(
        self, own: DataloaderPass, dataloader: int, layers: Mapping[str, int]
    ) -> KnockoutReport:
        assert own.evaluation is not None
        assert own.sets is not None
        longest = own.evaluation.longest
        if self.steps == "each":
            sets = counting_all(own.sets, layers, longest)
        else:
            sets = at_steps(own.sets, checked_steps(self.steps), longest)
        if self._metrics and not own.evaluation.outcomes.scores:
            self._say(
                f"Knock-outs: {', '.join(self._metrics)} of predicted classes, as prediction= "
                "gives no class scores.",
                rank_zero_info,
            )
        report = knockout_report(
            sets,
            own.evaluation.outcomes,
            value=_in_words(self.value, own.reference),
            concepts=self._concepts,
            relay=self._followed[dataloader] if self._follows else self._newest_relay(dataloader),
            metrics=self._metrics,
            measured=Measured(self.metric, self.mode == "max")
            if isinstance(self.metric, str)
            else None,
            n_bootstraps=self.n_bootstraps,
            seed=self.seed,
            samples_seen=own.samples_seen,
            batches_seen=own.batches_seen,
        )
        return dataclasses.replace(report, x_in=own.x_in)

    @property
    def _concepts(self) -> Concepts:
        if self.concepts is not None:
            return self.concepts
        return JOINT if self._relay is None else self._relay.concepts


def _loaded(path: str | Path) -> RelayReport:
    if not Path(path).is_file():
        raise ValueError(f"report: there is no file {str(path)!r}; it takes a saved relay report")
    return RelayReport.load(path)


def _check_value(value: Any) -> None:
    named = ("zero", *OF_STATES)
    if value in named:
        return
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return
    raise ValueError(
        f"value: got {value!r}; it takes a finite number or one of {', '.join(map(repr, named))}"
    )


def _check_used(**arguments: tuple[Any, bool, str]) -> None:
    """Raise a ValueError if an argument is given where it changes nothing."""
    for name, (given, used, goes_with) in arguments.items():
        if given is not None and not used:
            raise ValueError(f"{name}: it goes with {goes_with}, and changes nothing without")


def _check_counts(**counts: tuple[Any, int]) -> None:
    for name, (count, least) in counts.items():
        if count is None and name.startswith("max_"):
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name}: got {count!r}; it takes at least {least}")


def _metrics_by_name(metric: Any) -> dict[str, Metric]:
    """Copies of the metrics, by name."""
    if metric is None or isinstance(metric, str):
        return {}
    if isinstance(metric, MetricCollection):
        metrics = {str(name): part.clone() for name, part in metric.items()}
    elif isinstance(metric, Metric):
        metrics = {type(metric).__name__: metric.clone()}
    else:
        raise TypeError(
            f"metric: got {type(metric).__name__}; it takes a torchmetrics.Metric or "
            "MetricCollection, or the name of a number that the step logs, or 'loss'"
        )
    for name, part in metrics.items():
        if part.higher_is_better is None:
            raise ValueError(
                f"metric: {name} does not say whether higher is better; it takes a metric with "
                "higher_is_better"
            )
    return metrics


def _in_words(value: str | float, reference: int) -> str:
    if value in OF_STATES:
        return f"{value} of the states of the first {reference} sequences"
    return "0" if value == "zero" else f"{value:g}"
