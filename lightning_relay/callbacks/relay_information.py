"""The callback that shows, while a recurrent network trains, which units relay information."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_relay.callbacks.evaluations import (
    dataloaders_of,
    is_due,
    naming_the_sanity_check,
    numbers_of_batches,
    raise_empty,
    stamped,
    suffix_of,
)
from lightning_relay.callbacks.reporting_callback import OnError, ReportingCallback
from lightning_relay.information.options import RelayMeasure
from lightning_relay.latent.capture import LatentCapture
from lightning_relay.latent.options import LatentMeasure
from lightning_relay.reading.bins import Bins, bin_edges, binned, check_bins
from lightning_relay.reading.concepts import JOINT, Concepts, check_concepts
from lightning_relay.reading.labels import BatchEntry, TooFewLabelsError, check_entry
from lightning_relay.reading.predictions import Prediction, check_label_step, check_prediction
from lightning_relay.recurrent.chosen import Calls, check_calls
from lightning_relay.recurrent.hooks import HOOK_GUARDS, ignores_new_hooks
from lightning_relay.recurrent.layers import (
    Layers,
    State,
    check_layers,
    check_modules,
    check_states,
)
from lightning_relay.relay.analysis import shared_report
from lightning_relay.relay.capture import EvaluationCapture
from lightning_relay.relay.faces import relay_faces
from lightning_relay.relay.report import RelayReport
from lightning_relay.relay.scalars import early_notes, relay_scalars
from lightning_relay.reports.stage import Stage
from lightning_relay.sampling.buffer import SequenceBuffer, megabytes
from lightning_relay.sampling.kept import KeptStates
from lightning_relay.sampling.sample import SequenceSample

_ENDS = "it takes a step index, a mapping from module names to step indices, or 'auto'"


class RelayInformationCallback(ReportingCallback[RelayReport]):
    """Measures and logs, in every evaluation epoch, what each recurrent unit relays.

    Relay information is the label information in the prediction that a set of units carries and
    the other units do not. While the model's own ``validation_step`` or ``test_step`` runs, forward
    hooks record the hidden states and the class scores; the class labels are read from the batch.
    At the end of the epoch the callback discretizes the states. For every layer, step and concept
    it computes, logs and keeps the relay information of all units, their greedy order, their relay
    shares and the relay transfer between steps. The model, its training, its random streams and its
    own logs are what they are without the callback. Between evaluations there is no hook on the
    model.

    Scalars are logged under ``{prefix}/`` (``{prefix}_test/`` in testing). Several dataloaders are
    told apart by ``/dataloader_{i}`` at the end. A mean runs over the steps at which all inputs
    had been presented; each step is weighted with the number of sequences that are long enough for
    it. Steps counted from the sequences' ends count only if there is no other. The last step is
    step -1, the last of each sequence, if it was analysed, and otherwise the step with the largest
    index. A backward layer ends with the smallest index.

    - ``{layer}/{concept}/information``: mean of I_R of all units, bits.
    - ``{layer}/{concept}/information_last``: I_R of all units at the last step, bits.
    - ``{layer}/{concept}/largest_share_last``, with shares: the largest relay share of a unit at
      the last step, bits.
    - ``{layer}/{concept}/unattributed``, with shares: mean of I_R of all units minus the sum of
      their relay shares, bits; this part is in no unit's share.
    - ``{layer}/{concept}/units_needed_last``: number of units in a small set that tells 90 % of
      what all units tell at the last step; see ``ConceptRelay.smallest_set``.
    - ``{layer}/{concept}/migration``, with transfer and where it can be measured: part of the
      information that has left its units one step later, as the mean over steps; see
      ``relay_transfer``.
    - ``{layer}/{concept}/coverage``: mean coverage of the joint states of all units and X_in or
      X_out, whichever is lower, fraction of 1.
    - ``{layer}/{concept}/chance_level``, with permutations: mean of the value that I(X_in; X_out)
      exceeds by chance with the probability .05, bits.
    - ``{layer}/{concept}/units_above_chance``, with permutations: mean number of units that relay,
      beyond chance, what no other unit does; see ``ConceptRelay.beyond_chance``.
    - ``{layer}/{concept}/rank_stability``, with resamples: mean rank correlation of the orders of
      the resamples with the order of all sequences.
    - ``{concept}/mutual_information``: I(X_in; X_out) of all analysed sequences, bits.
    - ``{layer}/dimension``, ``{layer}/between_classes_last``, ``{layer}/speed_last``,
      ``{layer}/settled``, ``{layer}/attractors`` and ``{layer}/attractor_bits``, with ``latent``
      and where they are known: number of dimensions over which the states spread (participation
      ratio), part of their variance at the last step that lies between classes, distance that they
      moved in the last step, fraction of the visited states that settle under a constant input,
      number of attractors, and bits about the class that these tell; see ``LatentStructure``.
    - ``{layer}/threshold_agreement``, if thresholds were fitted to the first sequences only:
      fraction of the codes of a fair sample that thresholds fitted to this sample would give too,
      at the step and of the unit where it is lowest.

    Every logger gets the scalars. TensorBoardLogger, WandbLogger and MLFlowLogger also get the
    table ``…/relay_table`` of each layer and concept, and of the first concept of each layer
    figures: ``…/relay_share`` (bits by step and unit; ``…/units_needed`` if shares are not
    measured) and ``…/relay_transfer`` (by pair of steps); with ``latent``, also the figure
    ``{layer}/latent`` (trajectories of the states and attractors) and the table
    ``{layer}/latent_table``. A model with several layers also has the figure
    ``{concept}/layers``: bits by layer and step. TensorBoard gets figures as images, W&B as
    interactive ones, MLflow both; ``report.figure`` draws all others.

    Args:
        modules: Dotted names of the recurrent modules to analyse. Default: all recurrent modules.
        layers: ``"last"`` layer of each recurrent module, or ``"all"`` layers.
            ``recurrent_layers(model)`` lists them.
        states: States to analyse: ``"hidden"``, ``"cell"`` (of LSTMs), or both.
        target: X_in, the class label of each sequence: an index, key or attribute of the batch, or
            a function of the batch. Default: the only tensor of the batch that can be the labels
            of the answers: class numbers, one-hot rows, or yes and no for one logit or several.
        prediction: X_out, the predicted class of each sequence: the name of the submodule that
            gives class scores ``(batch, classes)``, logits or probabilities ``(batch,)``,
            ``(batch, 1)`` or ``(batch, label)``, or with ``bins`` real numbers; a function of what
            the step returned that gives these or classes ``(batch,)``; or a pair, the name of a
            submodule and a function of its output. A function of two arguments is given the batch,
            too. Default: the answer is found among the outputs of the modules that the step calls.
        label_step: Where each step has a label, ``(batch, step)``: the step whose labels and
            answers the states of all steps are compared with. A negative step counts back from the
            last label of each sequence. Default: states are compared with the labels and answers of
            their own step. Labels -100 are not counted.
        bins: For real labels and answers, what is asked of them: in which of so many bins, divided
            at quantiles of the labels; in which of the bins with these inner edges; or
            ``("up/down", entry)``, whether they are above an entry of the batch, given as for
            ``target``. Labels that are NaN are not counted where each step has one. Of several
            numbers ``(batch, number)``, ``label_step`` names one. Default: labels are classes.
        lengths: Lengths of the sequences: an index, key or attribute of the batch, or a function
            of the batch. Needed for sequences that are padded at their end and not packed; padded
            steps never count. The lengths of packed sequences are checked against it.
        calls: Which calls are analysed of a module that a step calls several times: the
            ``"first"``, the ``"last"``, that of an index such as 1 or -2, or ``"joined"``: all
            calls, one after the other, are one sequence. Calls that each continue from the state
            that the call before returned count as one, and so do the steps of a cell. A mapping
            gives the choice by module name. Default: several calls are an error.
        concepts: What is asked of the class label: ``"joint"`` (which class it is), ``"per_class"``
            (for each class, whether it is this one, or for each label of a sample, whether it has
            this one), or a mapping from names to functions of the class label, an int, or of
            several labels, a tuple of 0 and 1. Default: ``"joint"``, and ``"per_class"`` where a
            sample has several labels.
        inputs_end: Step at which the last input was presented. A negative step counts back from
            each sequence's own end. A mapping from module names to steps, if modules have steps of
            their own, such as a decoder. ``"auto"``: where the inputs of a module are constant from
            some step on in every sequence, for at least two steps, the last step before that.
            Earlier steps are marked and left out of the means. Default: no step is marked.
        measure: How relay information is measured. Default: ``RelayMeasure()``.
        sample: Which sequences and steps are analysed. Default: ``SequenceSample()``.
        latent: Whether to measure the geometry of the states, and where the dynamics settle if the
            module is iterated under a constant input. ``LatentMeasure(…)`` sets options.
        every_n_epochs: In fitting, the validation of every n-th epoch is analysed.
        stages: Evaluations to analyse: ``"validate"``, ``"test"``, or both.
        prefix: First part of all tags.
        dirpath: Local directory to save reports in. Default: ``relay_reports`` in the directory
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
        reports: Reports so far, the newest last. If they are saved, the newest 32; if not, all,
            until you clear the list. In a run that is resumed, they begin with those up to the
            checkpoint, as far as they are saved or in the checkpoint, which holds the newest.
        own_reports: Reports so far since a fit of another model began.
        tried: Reports of the sanity check, one for each dataloader, until training starts.

    Raises:
        TypeError: If an argument is of a wrong type, the module is not a
            ``lightning.pytorch.LightningModule``, or labels are not integers.
        ValueError: If an argument is out of its range, or something cannot be found in model,
            batch or step; the message lists what there is and the argument to set.

    Example:
        >>> from lightning_relay import RelayInformationCallback
        >>> callback = RelayInformationCallback(inputs_end=2, concepts="per_class")
        >>> callback.reports
        []

    Source:
        Hintze, Najam and Schossau, arXiv 2510.01271 (2025).
    """

    analysis = "relay"
    directory = "relay_reports"
    _report = RelayReport
    _running = (*ReportingCallback._running, "_capture", "_latent", "_dataloaders")

    def __init__(
        self,
        modules: Sequence[str] | None = None,
        *,
        layers: Layers = "last",
        states: Sequence[State] = ("hidden",),
        target: BatchEntry | None = None,
        prediction: Prediction | None = None,
        label_step: int | None = None,
        bins: Bins | None = None,
        lengths: BatchEntry | None = None,
        calls: Calls | Mapping[str, Calls] | None = None,
        concepts: Concepts | None = None,
        inputs_end: int | Mapping[str, int] | Literal["auto"] | None = None,
        measure: RelayMeasure | None = None,
        sample: SequenceSample | None = None,
        latent: LatentMeasure | bool = False,
        every_n_epochs: int = 1,
        stages: Sequence[Stage] = ("validate", "test"),
        prefix: str = "relay",
        dirpath: str | Path | None = None,
        on_error: OnError = "warn",
    ) -> None:
        super().__init__(every_n_epochs, stages, prefix, dirpath, on_error)
        check_modules(modules)
        check_layers(layers)
        check_states(states)
        check_entry("target", target)
        check_entry("lengths", lengths)
        check_prediction(prediction)
        check_label_step(label_step)
        check_bins(bins)
        check_calls(calls)
        check_concepts(concepts)
        for name, option, kind in (
            ("measure", measure, RelayMeasure),
            ("sample", sample, SequenceSample),
        ):
            if not isinstance(option, kind | None):
                raise TypeError(f"{name}: got {option!r}; it takes {kind.__name__}(…)")
        if not isinstance(latent, LatentMeasure | bool):
            raise TypeError(f"latent: got {latent!r}; it takes True, False or LatentMeasure(…)")
        if isinstance(inputs_end, str) and inputs_end != "auto":
            raise ValueError(f"inputs_end: got {inputs_end!r}; {_ENDS}")
        if inputs_end is not None and not isinstance(inputs_end, str):
            ends = inputs_end.values() if isinstance(inputs_end, Mapping) else [inputs_end]
            if any(isinstance(end, bool) or not isinstance(end, int) for end in ends):
                raise TypeError(f"inputs_end: got {inputs_end!r}; {_ENDS}")
        self.modules = modules
        self.layers = layers
        self.states = tuple(states)
        self.target = target
        self.prediction = prediction
        self.label_step = label_step
        self.bins = bins
        self.lengths = lengths
        self.calls = calls
        self.concepts = concepts
        self.inputs_end = inputs_end
        self.measure = measure or RelayMeasure()
        self.sample = sample or SequenceSample()
        self.latent = (LatentMeasure() if latent else None) if isinstance(latent, bool) else latent
        self._key = self._generate_state_key(
            prefix=prefix,
            modules=modules,
            layers=layers,
            states=self.states,
            calls=calls,
            concepts=list(concepts) if isinstance(concepts, Mapping) else concepts or JOINT,
            measure=self.measure,
        )
        self._capture: EvaluationCapture | None = None
        self._latent: LatentCapture | None = None
        # Only the first evaluation looks for them where they are not asked for.
        self._looks_for_ends = inputs_end is None
        self._ends: dict[int, dict[str, int]] = {}
        self._dataloaders: list[Any] = []
        self.tried: list[RelayReport] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before any training that the modules exist and that hooks on them will run."""
        if self.every_n_epochs > 1 and ignores_new_hooks(pl_module):
            raise ValueError(
                f"every_n_epochs: got {self.every_n_epochs} with compiled modules, which ignore "
                "hooks that are set after an evaluation without hooks; it takes 1, or any number "
                f"once you set {HOOK_GUARDS} before training"
            )
        self.tried.clear()
        self._looks_for_ends = self.inputs_end is None
        self._ends.clear()
        with self._new_capture(pl_module, None):
            pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before the first epoch that there is something to analyse."""
        self.tried.clear()
        super().on_train_start(trainer, pl_module)

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint, made of its prefix and options."""
        return self._key

    def _new_capture(
        self, pl_module: LightningModule, num_batches: Sequence[float] | None
    ) -> EvaluationCapture:
        return EvaluationCapture(
            pl_module,
            modules=self.modules,
            layers=self.layers,
            states=self.states,
            target=self.target,
            prediction=self.prediction,
            lengths=self.lengths,
            calls=self.calls,
            new_buffer=partial(SequenceBuffer, self._sample_of_each, self.measure),
            num_batches=num_batches,
            label_step=self.label_step,
            bins=self.bins,
            concepts=self.concepts,
            find_inputs_end=self.inputs_end == "auto" or self._looks_for_ends,
            new_positions=partial(self._new_positions, self._dataloaders),
        )

    @property
    def _sample_of_each(self) -> SequenceSample:
        """What each process keeps; with several, states, to which thresholds are fitted later."""
        if self._processes.size == 1:
            return self.sample
        return dataclasses.replace(self.sample, fit_samples=self.sample.max_samples)

    @property
    def _follows(self) -> bool:
        return self._capture is not None

    def _start(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if not is_due(trainer, stage, self.stages, self.every_n_epochs):
            return
        self._dataloaders = dataloaders_of(trainer, stage)
        capture = self._new_capture(pl_module, numbers_of_batches(trainer, stage))
        self._capture = capture.__enter__()
        if self.latent is not None:
            latent = LatentCapture(
                pl_module,
                modules=self.modules,
                layers=self.layers,
                states=self.states,
                sample=self.sample,
                measure=self.latent,
                calls=self.calls,
            )
            self._latent = latent.__enter__()

    def _before_step(self, batch: Any, dataloader: int) -> None:
        if self._capture is not None:
            self._capture.before_step(batch, dataloader)
            if self._latent is not None:
                self._latent.before_step(self._capture.lengths, dataloader)

    def _after_step(self, outputs: Any, batch_idx: int, dataloader: int) -> None:
        if self._capture is not None:
            self._capture.after_step(outputs)
            if self._latent is not None and self._capture.labels is not None:
                labels = self._capture.labels
                if labels.dim() == 2 or self._capture.unlabelled[dataloader]:
                    raise ValueError(
                        "latent: it takes one label for each sequence; name a step at which every "
                        "sequence has one with label_step=, or leave latent out"
                    )
                self._latent.after_step(
                    labels,
                    self._capture.lengths,
                    positions=self._capture.positions,
                    counted=self._capture.counted,
                    expected=self._capture.buffers[dataloader].expected,
                )

    def _leave(self) -> None:
        capture, latent = self._capture, self._latent
        self._capture = self._latent = None
        with ExitStack() as leaving:
            for own in (capture, latent):
                if own is not None:
                    leaving.push(own)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        capture, latent = self._capture, self._latent
        self._stop()
        if capture is None:
            return
        capture.pool(self._processes)
        if not capture.buffers:
            raise_empty(stage)
        if latent is not None:
            latent.pool(self._processes)
        self._say_what_was_found(capture)
        for dataloader, buffer in capture.buffers.items():
            states = buffer.states
            if trainer.sanity_checking and capture.steps.keys() != states.keys():
                continue  # Lengths differ, and the first sequences may all be short.
            try:
                with naming_the_sanity_check(trainer):
                    report = self._analysed(capture, latent, dataloader, states)
            except TooFewLabelsError:
                if trainer.sanity_checking:
                    continue
                raise
            scalars = relay_scalars(report)
            report = stamped(report, trainer, stage, dataloader)
            if trainer.sanity_checking:
                self._check_names(trainer, (f"{self.prefix}/{name}" for name in scalars))
                self.tried.append(report)
                continue
            suffix = suffix_of(trainer, stage, dataloader)
            self._say_what_inputs_end_changes(report)
            self._say_what_is_not_iterated(report)
            self._log(trainer, pl_module, report, scalars, relay_faces, suffix)
        self._looks_for_ends &= trainer.sanity_checking

    def _analysed(
        self,
        capture: EvaluationCapture,
        latent: LatentCapture | None,
        dataloader: int,
        states: Mapping[str, KeptStates],
    ) -> RelayReport:
        x_in_source, x_out_source = capture.sources[dataloader]
        buffer = capture.buffers[dataloader]
        if not len(buffer):
            raise TooFewLabelsError(f"target: no label of {x_in_source} counts; see label_step=")
        found = capture.inputs_end(dataloader)
        if self._looks_for_ends:
            self._ends[dataloader] = found
        inputs_end = found if self.inputs_end == "auto" else self.inputs_end
        edges = None if self.bins is None else bin_edges(self.bins, buffer.x_in)
        classes = partial(binned, edges=edges)
        report = shared_report(
            self._processes,
            states,
            classes(buffer.x_in),
            classes(buffer.x_out),
            concepts=self.concepts,
            num_classes=len(edges) + 1 if edges else capture.num_classes[dataloader],
            num_labels=capture.num_labels[dataloader],
            measure=self.measure,
            inputs_end=inputs_end,
            samples_seen=buffer.seen + capture.unlabelled[dataloader],
            latent=(
                None
                if latent is None
                else latent.structures(self._processes, dataloader, inputs_end, classes)
            ),
        )
        return dataclasses.replace(
            report,
            edges=edges,
            x_in=x_in_source,
            x_out=x_out_source,
            label_step=self.label_step,
            calls=capture.calls[dataloader],
            found_inputs_end=self._ends.get(dataloader, found),
        )

    def _say_what_inputs_end_changes(self, report: RelayReport) -> None:
        """Say once in a run where the mean over the steps tells something else than the last."""
        notes = early_notes(report)
        if notes:
            (layer, concept), note = next(iter(notes.items()))
            self._say(
                f"Relay information: {layer!r}, {concept}: {note}.",
                rank_zero_info,
                about="inputs_end",
            )

    def _say_what_is_not_iterated(self, report: RelayReport) -> None:
        """Say once in a run why the attractors of a layer are not known."""
        for key, layer in report.layers.items():
            if layer.latent is not None and layer.latent.no_attractors:
                self._say(
                    f"Latent structure: {key!r} is not iterated: {layer.latent.no_attractors}.",
                    rank_zero_info,
                    about=f"not iterated: {key}",
                )

    def _say_what_was_found(self, capture: EvaluationCapture) -> None:
        """Say once in a run what was found and which calls count, and warn of what is doubtful."""
        for dataloader, (x_in, x_out) in capture.sources.items():
            ends = ""
            if self.inputs_end == "auto":
                where = "" if len(capture.sources) == 1 else f" of dataloader {dataloader}"
                found = capture.inputs_end(dataloader)
                words = [
                    f"{name!r} at step {found[name]}" if name in found else f"{name!r} not found"
                    for name in capture.constant[dataloader]
                ]
                ends = f" The end of the inputs{where} (inputs_end='auto'): {', '.join(words)}."
            self._say(f"Relay information: X_in is {x_in}, X_out is {x_out}.{ends}", rank_zero_info)
        for calls in capture.calls.values():
            for name, own in calls.items():
                self._say(
                    f"Relay information: {name!r} is called several times in a step; analysed: "
                    f"{own}.",
                    rank_zero_info,
                )
        for buffer in capture.buffers.values():
            self._say(
                f"Relay information: the states of up to {buffer.expected} sequences take up to "
                f"{megabytes(buffer.bytes_needed)} of memory.",
                rank_zero_info,
            )
        for layer in sorted(capture.presorted):
            self._say(
                f"{layer!r} was given packed sequences that had been sorted by length. The relay "
                "analysis takes its sequence i for element i of the batch: right if the batch was "
                "sorted when it was collated, wrong if the model sorts it. Name lengths= to have "
                "this checked, or let the packing sort (enforce_sorted=False)",
                rank_zero_warn,
            )
        for layer, steps in capture.steps.items():
            if len(steps) > 1:
                self._say(
                    f"the batches given to {layer!r} have from {min(steps)} to {max(steps)} steps. "
                    "If they hold padded sequences, name lengths=; otherwise padding is counted",
                    rank_zero_warn,
                )
