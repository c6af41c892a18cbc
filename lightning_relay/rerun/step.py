"""Runs of a LightningModule's validation_step or test_step on a twin of the module."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_relay.reading.containers import rebuilt
from lightning_relay.reading.predictions import Prediction, PredictionReader, Predictions
from lightning_relay.recurrent.hooks import TransientHook
from lightning_relay.reports.stage import Stage
from lightning_relay.rerun.result import StepResult
from lightning_relay.rerun.silence import QuietTrainer, silence
from lightning_relay.rerun.streams import RandomStreams
from lightning_relay.rerun.twin import Memo, twin_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from lightning.pytorch import Trainer


class StepRerun:
    """Runs of a LightningModule's own step, as often as wanted, that leave no trace.

    The step runs on a twin: a deep copy that shares the parameters and nothing else, so that
    metrics, buffers and attributes of the module stay as they are. What the twin logs or prints
    goes nowhere; its Trainer tells what the real one tells. All runs draw the same random numbers,
    those that the module's own step draws if the twin is made just before it; afterwards the
    random streams stand where they stood. What was compiled runs eagerly on the twin, and hooks
    are copied along with what they record into. Datasets, dataloaders, optimizers and schedulers
    are shared.

    The twin keeps its own state from run to run; ``check_repeatable`` tells whether that matters.
    A step that writes to files, to global variables or attributes of classes, or prints without
    ``self.print`` does so in every run.

    Where the class scores are wanted and nothing else, a run ends as soon as they are known. The
    first run is whole: it tells which module gives them, and that it gives them once.

    Args:
        pl_module: The module.
        trainer: Its Trainer.
        stage: ``"validate"`` for runs of ``validation_step``, ``"test"`` for ``test_step``.
        prediction: Where the class scores come from, as of ``PredictionReader``.

    Attributes:
        twin: The twin; names of its submodules are those of the module, less ``_orig_mod`` of
            compiled ones. To change a run, patch modules of the twin around it.

    Raises:
        TypeError: If something in the module cannot be copied; says which attribute.
        ValueError: If the stage is unknown, the step takes its batches from an iterator, or the
            twin has no module of the name ``prediction``; says what there is.

    Example:
        >>> import torch
        >>> from lightning.pytorch import Callback
        >>> class Repeated(Callback):
        ...     def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx):
        ...         self.rerun = StepRerun(pl_module, trainer, "validate")
        ...     def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ...         self.classes = self.rerun.run(batch, batch_idx, target=batch[1]).classes
    """

    def __init__(
        self,
        pl_module: LightningModule,
        trainer: Trainer,
        stage: Stage,
        prediction: Prediction | None = None,
    ) -> None:
        if stage not in get_args(Stage):
            raise ValueError(f"stage: got {stage!r}; it takes 'validate' or 'test'")
        self._step = "validation_step" if stage == "validate" else "test_step"
        if is_param_in_hook_signature(
            getattr(pl_module, self._step), "dataloader_iter", explicit=True
        ):
            raise ValueError(
                f"pl_module: {self._step} of {type(pl_module).__name__} takes dataloader_iter, so "
                "it cannot be run again on the same batch; have it take a batch"
            )
        self._stage = stage
        self._trainer = trainer
        self._parameters = dict(pl_module.named_parameters())
        self._heard: dict[str, Any] = {}
        self._streams = RandomStreams.now(pl_module.device)
        self.twin = _silent_twin(pl_module, trainer, self._heard)
        if isinstance(prediction, str):
            parts = prediction.split(".")
            prediction = ".".join(part for part in parts if part != "_orig_mod")
        self._prediction = prediction
        self._scores_module: str | None = None
        PredictionReader(self.twin, prediction)  # checks the name

    @property
    def stops(self) -> bool:
        """Whether it is known after what a run ends, as the first run tells."""
        return self._scores_module is not None

    def run(
        self,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
        *,
        target: Tensor | None = None,
        whole: bool = False,
    ) -> StepResult:
        """Run the step on a batch.

        Args:
            batch: The batch, as the module's own step got it. Lists and mappings in it are
                rebuilt; tensors are passed on as they are.
            batch_idx: Index of the batch.
            dataloader_idx: Index of its dataloader.
            target: Class labels of the batch, int64 ``(batch,)``; without them no class scores
                are looked for, and the run is whole.
            whole: Run the step to its end, for what it logs and returns.

        Raises:
            TypeError: If ``prediction`` gives neither class scores nor labels.
            ValueError: If the class scores cannot be found or are not finite, or the step changes
                a parameter in place; says which argument decides, or what to do.
        """
        known = self._scores_module
        stops = known is not None and target is not None and not whole
        reader = PredictionReader(self.twin, self._prediction if known is None else known)
        arguments = self._arguments(rebuilt(batch), batch_idx, dataloader_idx)
        self._heard.clear()
        with ExitStack() as around:
            around.enter_context(self._same_random_numbers())
            around.enter_context(_untouched(self._parameters, self._step))
            around.enter_context(_eager())
            if target is not None:
                around.enter_context(reader)
            outputs = self._outputs(arguments, known if stops else None)
            predictions = None if target is None else reader.read(outputs, target)
        if known is None and predictions is not None:
            self._scores_module = predictions.module
        return self._result(predictions, None if stops else outputs, whole=not stops)

    def _outputs(self, arguments: list[Any], last_module: str | None) -> Any:
        step = getattr(self.twin, self._step)
        if last_module is None:
            with self._precision():
                return step(*arguments)
        # Set now, so that it comes after the hooks of whoever changes this run.
        handle = self.twin.get_submodule(last_module).register_forward_hook(_Stop())
        try:
            with self._precision():
                return step(*arguments)
        except _ScoresKnown:
            return None
        finally:
            handle.remove()

    def _result(self, predictions: Predictions | None, outputs: Any, *, whole: bool) -> StepResult:
        scores = None if predictions is None else predictions.scores
        heard = self._heard if whole else {}
        metrics = frozenset(name for name, value in heard.items() if isinstance(value, Metric))
        return StepResult(
            step=self._step,
            classes=None if predictions is None else predictions.classes,
            scores=None if scores is None else scores.clone(),
            num_classes=None if predictions is None else predictions.num_classes,
            source=None if predictions is None else predictions.source,
            whole=whole,
            logged={name: float(value) for name, value in heard.items() if name not in metrics},
            logged_metrics=metrics,
            loss=_loss(outputs),
        )

    def _arguments(self, batch: Any, batch_idx: int, dataloader_idx: int) -> list[Any]:
        """What Lightning gives the step."""
        step = getattr(self.twin, self._step)
        arguments = [batch]
        if is_param_in_hook_signature(step, "batch_idx", min_args=2):
            arguments.append(batch_idx)
        trainer = self._trainer
        batches = trainer.num_val_batches if self._stage == "validate" else trainer.num_test_batches
        if len(batches) > 1 and is_param_in_hook_signature(step, "dataloader_idx"):
            arguments.append(dataloader_idx)
        return arguments

    def _precision(self) -> AbstractContextManager[None]:
        plugin = self._trainer.precision_plugin
        return (
            plugin.val_step_context() if self._stage == "validate" else plugin.test_step_context()
        )

    @contextmanager
    def _same_random_numbers(self) -> Iterator[None]:
        outside = RandomStreams.now(self._streams.device)
        try:
            self._streams.restore()
            yield
        finally:
            outside.restore()


def _loss(outputs: Any) -> float | None:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _silent_twin(
    pl_module: LightningModule, trainer: Trainer, heard: MutableMapping[str, Any]
) -> LightningModule:
    quiet = QuietTrainer(trainer)
    memo = Memo(pl_module, _stand_ins(pl_module, trainer, quiet))
    twin = twin_of(pl_module, memo)
    if twin is pl_module or not isinstance(twin, LightningModule):
        raise TypeError(
            f"pl_module: copy.deepcopy of {type(pl_module).__name__} gave no copy of it; "
            "knock-outs run the step again on a copy, so have its __deepcopy__ return one"
        )
    quiet.stand_for(twin)
    for original in pl_module.modules():
        own = memo.get(id(original))
        if isinstance(original, LightningModule) and isinstance(own, LightningModule):
            silence(own, heard)
            if vars(original).get("_trainer") is not None:
                own.trainer = cast("Trainer", quiet)
    return twin


def _stand_ins(
    pl_module: LightningModule, trainer: Trainer, quiet: QuietTrainer
) -> Iterator[tuple[object, object]]:
    """What the twin has in place of what the module may hold."""
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


class _ScoresKnown(BaseException):
    """Ends a step whose class scores are known; no Exception, which user code may well catch."""


class _Stop(TransientHook):
    """Forward hook: the class scores are known."""

    def __call__(self, *_: Any) -> None:
        raise _ScoresKnown


@contextmanager
def _untouched(parameters: Mapping[str, nn.Parameter], step: str) -> Iterator[None]:
    """Put gradients and their flags back; notice parameters that were changed in place."""
    before = [
        (name, parameter, parameter.grad, parameter.requires_grad, _versions(parameter))
        for name, parameter in parameters.items()
    ]
    try:
        yield
    finally:
        for _, parameter, grad, requires_grad, _ in before:
            if parameter.grad is not grad:
                parameter.grad = grad
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
    for name, parameter, _, _, versions in before:
        if _versions(parameter) != versions:
            raise ValueError(
                f"pl_module: the {step} changes the parameter {name!r} or its gradient in place, "
                "so it cannot be run again without a trace; move that out of the step"
            )


def _versions(parameter: nn.Parameter) -> list[int]:
    """How often a parameter and its gradient were changed in place, as far as torch counts it."""
    return [
        tensor._version
        for tensor in (parameter, parameter.grad)
        if tensor is not None and not tensor.is_inference()
    ]


def _eager() -> AbstractContextManager[Any]:
    """Have methods that a class declares as compiled run eagerly, where torch can."""
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        return cast("AbstractContextManager[Any]", torch.compiler.set_stance("force_eager"))
    return nullcontext()
