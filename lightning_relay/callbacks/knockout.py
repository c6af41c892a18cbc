"""The callback that knocks out units, while a recurrent network trains, and logs the damage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torchmetrics import Metric, MetricCollection

from lightning_relay.ablation.asked import Ablation, Computed, Score, Value
from lightning_relay.ablation.faces import knockout_faces
from lightning_relay.ablation.passes import KnockoutPass
from lightning_relay.ablation.report import KnockoutReport
from lightning_relay.ablation.results import knockout_report
from lightning_relay.ablation.scalars import knockout_scalars
from lightning_relay.ablation.selection import EveryUnit, Known, Selection
from lightning_relay.callbacks.evaluations import (
    dataloaders_of,
    is_due,
    naming_the_sanity_check,
    numbers_of_batches,
    raise_empty,
    stamped,
    suffix_of,
)
from lightning_relay.callbacks.progress import Progress
from lightning_relay.callbacks.relay_information import RelayInformationCallback
from lightning_relay.callbacks.reporting_callback import OnError, ReportingCallback
from lightning_relay.reading.bins import Bins
from lightning_relay.reading.concepts import Concepts
from lightning_relay.reading.labels import BatchEntry, TooFewLabelsError
from lightning_relay.reading.predictions import Prediction
from lightning_relay.relay.report import RelayReport
from lightning_relay.reports.stage import Stage


class KnockoutCallback(ReportingCallback[KnockoutReport]):
    """Measures and logs the damage to a recurrent model when units are knocked out.

    Right after the model's own ``validation_step`` or ``test_step``, the step is run again on the
    same batch: once for each set of units, held as by ``knocked_out``, and twice unchanged. The
    runs use a twin of the module that shares its parameters; what they log, draw and store is
    discarded. So the model, its training, its random streams, metrics and logs are what they are
    without the callback. The step must not carry state between batches; a step whose two unchanged
    runs differ is refused. Units of a module that the step calls several times are held in all
    calls.

    Damage is the accuracy without knock-out minus that with it, of all samples, of each class, of
    each concept, and of each step where steps have labels, with 95 % intervals. ``AlongOrder`` and
    ``TopUnits`` rank units by their relay shares in a relay report, or by its greedy order where
    shares were not measured; ties are broken at random. Single units' damage is compared with their
    relay shares (their unit scores, where shares were not measured).

    Reports are kept in ``reports``, saved, and drawn. Tags start with ``{prefix}/``
    (``{prefix}_test/`` in testing) and end with ``/dataloader_{i}`` if there are several
    dataloaders. Logged scalars:

    - ``accuracy``: accuracy without knock-out.
    - ``{layer}/largest_damage``, ``{layer}/mean_damage``: damage to the accuracy by single units.
    - ``{layer}/{concept}/score_correlation``: rank correlation of the relay shares of single units
      with their damage.
    - ``{layer}/{concept}/area_most_first``, ``…/area_least_first``, ``…/area_random``: mean
      accuracy while units are knocked out one after the other.
    - ``{layer}/{concept}/top_damage``, ``…/random_damage``: damage to a concept by its top units,
      and by random sets of the same size.
    - ``{layer}/{concept}/predicts_damage``: partial R² of the relay information of random sets,
      given their sizes; with several steps, ``…/predicts_damage_{step}``.
    - ``{layer}/{concept}/share_correlation``: rank correlation of the units' relay shares with
      their shares of the damage, likewise.
    - ``{metric}``, ``{metric}/largest_damage``: a metric of the user without knock-out, and the
      largest damage to it.

    Every logger gets the scalars. TensorBoardLogger, WandbLogger and MLFlowLogger also get the
    table ``knockout_table`` and images: ``damage`` of every set, ``{layer}/{concept}/deletion``
    along orders, ``{layer}/{concept}/agreement`` of damage and relay shares,
    ``{layer}/{concept}/prediction`` of damage over the relay information of random sets, and
    ``{layer}/{measure}/step_damage`` of single units at single steps.

    Args:
        which: Units to knock out, and when: ``EveryUnit()``, each alone (default);
            ``AlongOrder()``, one after the other by relay share; ``TopUnits()``, those with the
            largest relay shares of each concept, and random sets; ``RandomSets()``, random sets
            held at one step, beside their relay information; ``RandomOrders()``, units held one
            after the other in random orders, at one step; or ``NamedSets()``, the user's.
        value: Value that the units are held at: a number, or ``Mean()``, ``MeanPerStep()`` or
            ``Resample()`` of recorded states.
        score: A torchmetrics.Metric or MetricCollection of class scores and labels, measured
            beside the accuracies; ``Computed()`` sets its number of resamples. Or
            ``Logged("val_loss")``, a number that the step logs or returns, measured instead of the
            accuracies unless ``target``, ``prediction``, ``label_step``, ``bins``, ``lengths`` or
            ``concepts`` is given.
        target: X_in, the class label of each sequence: an index, key or attribute of the batch, or
            a function of it. Default: that of the RelayInformationCallback in the Trainer, or else
            the only tensor of the batch that can be the labels of the answers.
        prediction: X_out: the name of the submodule that gives class scores ``(batch, classes)``,
            logits or probabilities ``(batch,)``, ``(batch, 1)`` or ``(batch, label)``, or with
            ``bins`` real numbers; a function of what the step returned that gives these or classes
            ``(batch,)``; or a pair, the name of a submodule and a function of its output. A
            function of two arguments is given the batch, too. Default: that of the
            RelayInformationCallback in the Trainer, or else the answer is found among the outputs
            of the step's module calls.
        label_step: Where each step has a label: the step whose labels and answers are measured. A
            negative step counts back from the last label of each sequence. Sequences without a
            label there are not counted. Default: that of the RelayInformationCallback in the
            Trainer, or else the labels of all steps.
        bins: For real labels and answers, the bins that they are in, as for
            RelayInformationCallback. Default: those of the one in the Trainer.
        lengths: Lengths of sequences that are padded: an index, key or attribute of the batch, or
            a function of it. Labels of steps beyond are not counted; needed where padding is not
            filled with -100. States beyond make no value. Default: those of the
            RelayInformationCallback in the Trainer.
        concepts: ``"joint"`` (the class itself), ``"per_class"`` (is it this class, or has the
            sample this label?), or functions of the class label by name, called with an int, or of
            several labels, with a tuple. Default: those of the RelayInformationCallback in the
            Trainer, or else ``"joint"``, and ``"per_class"`` where a sample has several labels.
        relay: Source of relay shares and orders: a report, the path of a saved one, which ends in
            ``.npz``, or the prefix of a RelayInformationCallback in the Trainer. Default: the first
            such callback. Units are ranked by its newest report when an evaluation begins, which is
            the report of the evaluation before. Reports from before a fit of another model are not
            followed.
        max_batches: Maximum number of batches of each dataloader to run again; default: all.
        seed: Seed of random orders, tie-breaks, random sets, samples of sets, drawn values and
            resamples.
        every_n_epochs: In fitting, analyse the validation of every n-th epoch.
        stages: Which of ``"validate"`` and ``"test"`` to analyse.
        prefix: First part of all tags.
        dirpath: Local directory to save reports in. Default: ``knockout_reports`` in the directory
            of the run, for the Trainer's first logger that has a local one. Runs of MLflow also get
            every report as an artifact. Without a directory and MLflow, and in a
            ``fast_dev_run``, nothing is saved. The directory is tried before training; if a report
            cannot be saved later, there is a warning and training goes on.
        on_error: What an error of the analysis does while the model is trained, after the sanity
            check: ``"warn"`` gives a warning with the reason, once, and training goes on without
            this report; ``"raise"`` ends the fit. In the sanity check, in the first analysis of a
            fit without one, in a ``fast_dev_run``, and in ``trainer.validate`` and
            ``trainer.test``, errors are raised.

    Attributes:
        reports: The reports so far, the newest last. If they are saved, the newest 32; if not, all,
            until you clear the list. In a run that is resumed, they begin with those up to the
            checkpoint, as far as they are saved or in the checkpoint, which holds the newest.
        own_reports: The reports so far since a fit of another model began.

    Raises:
        TypeError: If an argument or the module is of a wrong type, or the module cannot be copied.
        ValueError: If an argument is out of range, something cannot be found in model, batch or
            step, there is no relay report to rank by, or the step does not repeat when it is run
            again. The message lists what there is and names the argument to set.

    Example:
        >>> from lightning_relay import EveryUnit, KnockoutCallback
        >>> callback = KnockoutCallback(EveryUnit(layers="all"), every_n_epochs=5)
        >>> callback.reports
        []

    Source:
        Hintze, Najam and Schossau, arXiv 2510.01271 (2025); Hintze and Adami, Entropy 25(3):401
        (2023).
    """

    analysis = "knock-out"
    directory = "knockout_reports"
    _report = KnockoutReport
    _running = (*ReportingCallback._running, "_pass", "_progress")

    def __init__(
        self,
        which: Selection | None = None,
        *,
        value: Value = 0.0,
        score: Metric | MetricCollection | Score | None = None,
        target: BatchEntry | None = None,
        prediction: Prediction | None = None,
        label_step: int | None = None,
        bins: Bins | None = None,
        lengths: BatchEntry | None = None,
        concepts: Concepts | None = None,
        relay: str | RelayReport | Path | None = None,
        max_batches: int | None = None,
        seed: int = 0,
        every_n_epochs: int = 1,
        stages: Sequence[Stage] = ("validate", "test"),
        prefix: str = "knockout",
        dirpath: str | Path | None = None,
        on_error: OnError = "warn",
    ) -> None:
        super().__init__(every_n_epochs, stages, prefix, dirpath, on_error)
        self._given_options = self.asked = Ablation(
            EveryUnit() if which is None else which,
            value,
            Computed(score) if isinstance(score, Metric | MetricCollection) else score,
            target,
            prediction,
            label_step,
            bins,
            lengths,
            concepts,
            max_batches,
            seed,
        )
        self.relay = relay
        self._given = _given_report(relay)
        self._relay: RelayInformationCallback | None = None
        self._followed: list[RelayReport | None] = []
        self._pass: KnockoutPass | None = None
        self._progress: Progress | None = None
        self._key = self._generate_state_key(
            prefix=prefix, which=self.asked.which, value=self.asked.held_value
        )

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint, made of what it measures and where."""
        return self._key

    @property
    def waits_for_relays(self) -> bool:
        """Whether its sets follow the reports of a RelayInformationCallback."""
        return self.asked.which.follows and self._given is None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what the Trainer brings, and find the relay callback."""
        super().setup(trainer, pl_module, stage)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        relays = [other for other in callbacks if isinstance(other, RelayInformationCallback)]
        wanted = self.relay if self._given is None else None
        found = [other for other in relays if wanted in (None, other.prefix)]
        if wanted is not None and not found:
            prefixes = ", ".join(repr(other.prefix) for other in relays) or "none"
            raise ValueError(
                f"relay: no RelayInformationCallback with the prefix {wanted!r} in the Trainer; it "
                f"has: {prefixes}"
            )
        self._relay = found[0] if found else None
        if self.waits_for_relays and self._relay is None:
            raise ValueError(
                f"which: {type(self.asked.which).__name__} follows a relay report, and there is "
                "none; add a RelayInformationCallback to the Trainer, or give a report as relay="
            )
        self.asked = self._given_options
        if self._relay is not None and self.asked.labelled:
            names = ("target", "prediction", "label_step", "bins", "lengths", "concepts")
            self.asked = dataclasses.replace(
                self.asked,
                **{
                    name: getattr(self._relay, name)
                    for name in names
                    if getattr(self.asked, name) is None
                },
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the names of modules, layers and units before any training."""
        self.asked.which.check(pl_module, self._given, self._concepts)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose sets from the relay reports of the sanity check, to refuse what cannot be."""
        which = self.asked.which
        if not self.waits_for_relays or self._relay is None:
            return
        for report in self._relay.tried if "validate" in self.stages else ():
            which.sets(which.layers_in(pl_module), Known(report, self._concepts), self.asked.seed)

    def _newest_relay(self, dataloader: int) -> RelayReport | None:
        """The given report, or the newest one of this dataloader, or else of any."""
        if self._given is not None:
            return self._given
        reports = [] if self._relay is None else self._relay.own_reports
        own = [report for report in reports if report.dataloader == dataloader]
        newest = own or reports
        return newest[-1] if newest else None

    @property
    def _concepts(self) -> Concepts | None:
        if self.asked.concepts is not None or self._relay is None:
            return self.asked.concepts
        return self._relay.concepts

    def _start(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if not is_due(trainer, stage, self.stages, self.every_n_epochs):
            return
        which, batches = self.asked.which, numbers_of_batches(trainer, stage)
        self._followed = [self._newest_relay(dataloader) for dataloader in range(len(batches))]
        if which.follows and None in self._followed and not trainer.sanity_checking:
            name = type(which).__name__
            if trainer.state.fn == TrainerFn.FITTING:
                self._say(
                    f"Knock-outs: {name} follows a relay report, and there is none yet; they begin "
                    "with the first evaluation after a report.",
                    rank_zero_info,
                )
                return
            raise ValueError(
                f"which: {name} follows a relay report, and there is none before the end of an "
                f"evaluation; run trainer.{stage} twice, or give a report as relay="
            )
        which.check(pl_module, self._given, self._concepts)
        relay = self._relay if self.waits_for_relays else None
        if relay is not None and relay.own_reports and relay.is_of_another(pl_module):
            self._say(
                f"{type(which).__name__} follows a relay report of another module object: right if "
                "this is the same model, loaded from a checkpoint; otherwise give its own report "
                "as relay=",
                rank_zero_warn,
            )
        self._progress = Progress(trainer, partial(self._say, how=rank_zero_info, about="time"))
        self._pass = KnockoutPass(
            pl_module=pl_module,
            trainer=trainer,
            stage=stage,
            asked=self.asked,
            concepts=self._concepts,
            relays=self._followed,
            num_batches=batches,
            progress=self._progress.advance,
            new_positions=partial(self._new_positions, dataloaders_of(trainer, stage)),
            processes=self._processes,
        )

    def _before_step(self, batch: Any, dataloader: int) -> None:
        if self._pass is not None:
            self._pass.before_step(batch, dataloader)

    def _after_step(self, outputs: Any, batch_idx: int, dataloader: int) -> None:
        if self._pass is not None:
            self._pass.after_step(outputs, batch_idx, dataloader)

    @property
    def _follows(self) -> bool:
        return self._pass is not None

    def _leave(self) -> None:
        progress, run, self._progress, self._pass = self._progress, self._pass, None, None
        if run is not None:
            run.close()
        if progress is not None:
            progress.close()

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        run = self._pass
        if run is None:
            return
        with naming_the_sanity_check(trainer):
            found = run.end()
        self._stop()
        if not found and not run.untried:
            raise_empty(stage)
        for dataloader, why in run.without_number.items() if not trainer.sanity_checking else ():
            self._say(f"Knock-outs: no report of dataloader {dataloader}: {why}.", rank_zero_info)
        for dataloader, ran in found.items():
            follows = self.asked.which.follows
            relay = self._followed[dataloader] if follows else self._newest_relay(dataloader)
            try:
                report = knockout_report(
                    ran,
                    self.asked,
                    concepts=self._concepts,
                    relay=relay,
                    measure=None if self._relay is None else self._relay.measure,
                )
            except TooFewLabelsError:
                if trainer.sanity_checking:
                    continue
                raise
            if trainer.sanity_checking:
                continue
            if self.asked.computed is not None and not ran.outcomes.scores:
                self._say(
                    f"Knock-outs: {', '.join(self.asked.computed.metrics())} uses predicted "
                    "classes, as prediction= gives no class scores.",
                    rank_zero_info,
                )
            report = stamped(report, trainer, stage, dataloader)
            suffix = suffix_of(trainer, stage, dataloader)
            self._log(trainer, pl_module, report, knockout_scalars(report), knockout_faces, suffix)


def _given_report(relay: str | RelayReport | Path | None) -> RelayReport | None:
    """The relay report given as an object or a path; None for a prefix."""
    if isinstance(relay, RelayReport):
        return relay
    if relay is None or (isinstance(relay, str) and not relay.endswith(".npz")):
        return None
    if not isinstance(relay, str | Path):
        raise TypeError(
            f"relay: got {relay!r}; it takes a RelayReport, the path of a saved one, or the prefix "
            "of a RelayInformationCallback"
        )
    if not Path(relay).is_file():
        raise ValueError(f"relay: no file {str(relay)!r}; it takes the path of a saved report")
    return RelayReport.load(relay)
