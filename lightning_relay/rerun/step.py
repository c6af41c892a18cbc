"""Runs of a LightningModule's validation_step or test_step on a twin of the module."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torchmetrics import Metric

from lightning_relay.reading.containers import numbers_in
from lightning_relay.reading.predictions import PredictionReader, Question
from lightning_relay.recurrent.hooks import TransientHook
from lightning_relay.reports.stage import STEP_OF, Stage
from lightning_relay.rerun.batches import KeptBatch
from lightning_relay.rerun.holdings import Holdings
from lightning_relay.rerun.mapping import in_lanes
from lightning_relay.rerun.packages import is_module
from lightning_relay.rerun.result import StepResult, same_scores
from lightning_relay.rerun.silence import INSTEAD, Heard, QuietTrainer, silence
from lightning_relay.rerun.traces import PROCESS, RandomStreams, eager, untouched
from lightning_relay.rerun.twin import Memo, OwnDefaults, twin_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping, Sequence
    from contextlib import AbstractContextManager

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_relay.reading.answers import Answer
    from lightning_relay.reading.labels import Labels

_States = TypeVar("_States")


class StepRerun:
    """Runs of a LightningModule's own step, any number of times, that leave no trace.

    The step runs on a twin: a deep copy that shares the parameters and nothing else, so that
    metrics, buffers and attributes of the module stay as they are. What the twin logs or prints
    goes nowhere, and its Trainer tells what the real one tells. All runs draw the same random
    numbers: those of the module's own step, if the twin is made just before it. Afterwards the
    random streams are where they were. Compiled code runs eagerly on the twin, and hooks are copied
    together with what they record into. Datasets, dataloaders, optimizers and schedulers are
    shared. Runs in several threads wait for each other.

    The twin keeps its own state from run to run; ``check_repeatable`` tells whether that matters.
    If a step writes to files, or prints without ``self.print``, it does so in every run, and so it
    does if it changes global variables or attributes of classes; ``Surroundings`` undoes that.

    If only the class scores are wanted, a run ends as soon as they are known. The first run is
    whole: it tells which module gives them, and that it gives them once.

    Args:
        pl_module: The module. A TypeError names the attribute of it that cannot be copied.
        trainer: Its Trainer.
        stage: ``"validate"`` for runs of ``validation_step``, ``"test"`` for ``test_step``.
        question: Which labels and answers are read, as for ``PredictionReader``.

    Attributes:
        twin: The twin. Its submodules have the names of the module's without ``_orig_mod``. To
            change a run, patch modules of the twin around it.
    """

    def __init__(
        self,
        pl_module: LightningModule,
        trainer: Trainer,
        stage: Stage,
        question: Question | None = None,
    ) -> None:
        if stage not in get_args(Stage):
            raise ValueError(f"stage: got {stage!r}; it takes 'validate' or 'test'")
        self._step = STEP_OF[stage]
        step = getattr(pl_module, self._step)
        if is_param_in_hook_signature(step, "dataloader_iter", explicit=True):
            raise ValueError(
                f"pl_module: {self._step} of {type(pl_module).__name__} takes dataloader_iter, so "
                "it cannot be run again on the same batch; have it take a batch"
            )
        self._stage = stage
        self._trainer = trainer
        self._parameters = dict(pl_module.named_parameters())
        self._heard: dict[str, Heard] = {}
        self._streams = RandomStreams.now(pl_module.device)
        self._quiet = QuietTrainer(trainer)
        self.twin, memo = _silent_twin(pl_module, trainer, self._quiet, self._heard)
        self._defaults = OwnDefaults(pl_module, memo)
        self._referents = memo.referents  # to which the twin has weak references only
        self._question = question or Question()
        self._scores_module: str | None = None
        PredictionReader(self.twin, self._question)  # checks the name

    def run(
        self,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
        *,
        labels: Labels | None = None,
        whole: bool = False,
    ) -> StepResult:
        """Run the step on a batch, as the module's own step got it.

        A ``KeptBatch``, made before the module's own step, gives each run what that step got.
        Without ``labels`` no answer is looked for, and the run is whole. ``whole=True`` runs the
        step to its end for what it logs and returns. A TypeError or ValueError says which argument
        decides, or what to do, if the answer cannot be read or the step changes a parameter in
        place.
        """
        known = self._scores_module
        stops = known is not None and labels is not None and not whole
        reader = PredictionReader(self.twin, self._question, known)
        kept = KeptBatch.of(batch)
        arguments = self._arguments(kept.given(), batch_idx, dataloader_idx)
        self._heard.clear()
        with ExitStack() as around:
            if kept is not batch:
                around.callback(kept.put_back)
            around.enter_context(PROCESS)
            around.enter_context(self._defaults.in_use())
            around.enter_context(self._streams.inside())
            around.enter_context(untouched(self._parameters, self._step))
            around.enter_context(eager())
            if labels is not None:
                around.enter_context(reader)
            outputs = self._outputs(arguments, known if stops else None)
            answer = None if labels is None else reader.read(outputs, labels, arguments[0])
        if known is None and answer is not None:
            self._scores_module = answer.module
        return self._result(answer, None if stops else outputs, dataloader_idx, whole=not stops)

    def be_validating(self) -> None:
        """In the sanity check, have the Trainer tell the twin from now on that it is over."""
        self._quiet.be_validating()

    @property
    def ends_early(self) -> bool:
        """Whether a run that need not be whole ends as soon as the class scores are known."""
        return self._scores_module is not None

    def run_together(
        self,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
        *,
        labels: Labels,
        states: Callable[[], _States],
        given: Callable[[_States, int | None], AbstractContextManager[None]],
        compared: Sequence[int] = (),
    ) -> list[StepResult]:
        """Run the step once for several lanes, mapped by ``torch.func.vmap``, if it ``ends_early``.

        ``states`` makes a pytree of tensors that have the lanes as their first dimension. ``given``
        has the twin use those of one lane by its place, or for None those that are mapped. Whatever
        the step sets on the twin is put back, because mapped tensors cannot be used later.

        Steps that vmap cannot map raise errors of many types, and a step may take another way where
        it catches one. So the ``compared`` lanes are also run alone: a RuntimeError says that they
        have other class scores.
        """
        with self._precision():
            mapped = states()
        alone = []
        for place in compared:
            with given(mapped, place):
                alone.append(self.run(batch, batch_idx, dataloader_idx, labels=labels))
        known = self._scores_module
        reader = PredictionReader(self.twin, self._question, known)
        arguments = self._arguments(KeptBatch.of(batch).given(), batch_idx, dataloader_idx)
        self._heard.clear()

        def scores(own: _States) -> Tensor:
            with given(own, None):
                self._outputs(arguments, known)
            return reader.read_values(labels, arguments[0])

        with ExitStack() as around:
            around.enter_context(PROCESS)
            around.enter_context(self._defaults.in_use())
            around.enter_context(self._streams.inside())
            around.enter_context(untouched(self._parameters, self._step))
            around.callback(Holdings([self.twin]).put_back)
            around.enter_context(eager())
            around.enter_context(reader)
            found = reader.read_lanes(in_lanes(scores, mapped), labels)
        assert found.scores is not None
        lanes = zip(found.classes.unbind(), found.scores.unbind(), strict=True)
        results = [
            self._result(
                replace(found, classes=classes, scores=own), None, dataloader_idx, whole=False
            )
            for classes, own in lanes
        ]
        for place, one in zip(compared, alone, strict=True):
            if not same_scores(one, results[place]):
                raise RuntimeError(f"the {self._step} gives other class scores under vmap")
        return results

    def _outputs(self, arguments: list[Any], last_module: str | None) -> Any:
        """What the step returns; None if it ends with a call of the last module."""
        step = getattr(self.twin, self._step)
        with ExitStack() as around:
            if last_module is not None:
                # Set now, so that it comes after the hooks of whoever changes this run.
                module = self.twin.get_submodule(last_module)
                around.callback(module.register_forward_hook(_Stop()).remove)
            try:
                with self._precision():
                    return step(*arguments)
            except _ScoresKnown:
                return None

    def _result(
        self, answer: Answer | None, outputs: Any, dataloader_idx: int, *, whole: bool
    ) -> StepResult:
        if answer is not None and answer.scores is not None:
            answer = replace(answer, scores=answer.scores.clone())
        heard = self._heard if whole else {}
        metrics = frozenset(name for name, own in heard.items() if isinstance(own.value, Metric))
        dataloader = dataloader_idx if len(self._num_batches) > 1 else None
        return StepResult(
            step=self._step,
            answer=answer,
            whole=whole,
            logged={name: float(own.value) for name, own in heard.items() if name not in metrics},
            logged_metrics=metrics,
            returned={path or "loss": number for path, number in numbers_in(outputs)},
            names={name: own.names(name, dataloader) for name, own in heard.items()},
        )

    @property
    def _num_batches(self) -> Sequence[float]:
        """Number of batches of each dataloader."""
        trainer = self._trainer
        return trainer.num_val_batches if self._stage == "validate" else trainer.num_test_batches

    def _arguments(self, batch: Any, batch_idx: int, dataloader_idx: int) -> list[Any]:
        """What Lightning gives the step."""
        step = getattr(self.twin, self._step)
        arguments = [batch]
        if is_param_in_hook_signature(step, "batch_idx", min_args=2):
            arguments.append(batch_idx)
        if len(self._num_batches) > 1 and is_param_in_hook_signature(step, "dataloader_idx"):
            arguments.append(dataloader_idx)
        return arguments

    def _precision(self) -> AbstractContextManager[None]:
        plugin = self._trainer.precision_plugin
        return (
            plugin.val_step_context() if self._stage == "validate" else plugin.test_step_context()
        )


def _silent_twin(
    pl_module: LightningModule,
    trainer: Trainer,
    quiet: QuietTrainer,
    heard: MutableMapping[str, Heard],
) -> tuple[LightningModule, Memo]:
    memo = Memo(pl_module, _stand_ins(pl_module, trainer, quiet), INSTEAD)
    twin = twin_of(pl_module, memo)
    if twin is pl_module or not is_module(twin):
        raise TypeError(
            f"pl_module: copy.deepcopy of {type(pl_module).__name__} gave no copy of it; "
            "knock-outs run the step again on a copy, so have its __deepcopy__ return one"
        )
    quiet.stand_for(twin)
    for own in twin.modules():
        if isinstance(own, Metric):  # processes may run the step a different number of times
            own.distributed_available_fn = _never
    for original in memo.modules:
        own = memo.get(id(original))
        if is_module(own) and own is not original:
            silence(own, heard)
            if vars(original).get("_trainer") is not None:
                own.trainer = cast("Trainer", quiet)
    return twin, memo


def _stand_ins(
    pl_module: LightningModule, trainer: Trainer, quiet: QuietTrainer
) -> Iterator[tuple[object, object]]:
    """Pairs of an object that the module may hold and what the twin holds instead."""
    yield trainer, quiet
    for logger, silent in zip(trainer.loggers, quiet.loggers, strict=True):
        yield logger, silent
        if vars(logger).get("_experiment") is not None:
            yield vars(logger)["_experiment"], silent.experiment
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    yield from ((shared, shared) for shared in [trainer.strategy, *trainer.optimizers, *schedulers])
    for module in pl_module.modules():
        if vars(module).get("_compiler_ctx") is not None:
            yield vars(module)["_compiler_ctx"], {}


def _never() -> bool:
    return False


class _ScoresKnown(BaseException):
    """Ends a step whose class scores are known; no Exception, because user code may catch that."""


class _Stop(TransientHook):
    """Forward hook: the class scores are known."""

    def __call__(self, *_: Any) -> None:
        raise _ScoresKnown
