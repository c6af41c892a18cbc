"""Validations and fits with both callbacks, in any number of processes.

Run ``python -m tests.support.distributed RUNS``, with the options of each run as a JSON list;
reports are saved in its ``dirpath``, and what each process logged. Lightning starts the other
processes with the same command, once for all runs.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lightning_relay
from lightning_relay import (
    KnockoutCallback,
    LatentMeasure,
    Logged,
    RelayInformationCallback,
    RelayMeasure,
    SequenceSample,
)
from lightning_relay.callbacks.resuming import file_of
from lightning_relay.reports.files import checksum_of
from tests.support.models import Classifier
from tests.support.training import quiet_trainer

SAMPLES, STEPS = 331, 6
GENERATOR = torch.Generator().manual_seed(0)
SERIES = torch.randn(SAMPLES, STEPS, 1, generator=GENERATOR, dtype=torch.float64)
LENGTHS = torch.randint(2, STEPS + 1, (SAMPLES,), generator=GENERATOR)
LABELS = (SERIES[:, 0, 0] > 0).long() * 2 + (SERIES[:, 1, 0] > 0)


class Packed(Classifier):
    """Sequences of several lengths, in double precision."""

    def __init__(self, fails_in: int | None = None, cell: str = "GRU") -> None:
        super().__init__()
        self.rnn = getattr(nn, cell)(1, 6, batch_first=True)
        self.double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))
            self.head.bias.zero_()
        self.fails_in = fails_in

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Any:
        assert lengths is not None
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, final = self.rnn(packed)
        hidden = final[0] if isinstance(final, tuple) else final
        return self.head(hidden[0])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, lengths, labels = batch
        if self.fails_in == self.global_rank:
            x = x + torch.inf * (batch_idx > 0)
        loss = nn.functional.cross_entropy(self(x, lengths), labels)
        if not isinstance(self.trainer.val_dataloaders.dataset, IterableDataset):
            self.log("val_loss", loss, sync_dist=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, lengths, labels = batch
        return nn.functional.cross_entropy(self(x, lengths), labels)


class Uneven(IterableDataset[Any]):
    """Samples that processes take as they like: the last process gets none."""

    def __iter__(self) -> Any:
        rank, size = 0, 1
        if torch.distributed.is_initialized():
            rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if size > 1 and rank == size - 1:
            return
        for place in range(rank, SAMPLES, max(1, size - 1)):
            yield SERIES[place], LENGTHS[place], LABELS[place]


def odd(label: int) -> int:
    return label % 2


def main(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    sample = SequenceSample(**options.get("sample", {}))
    callback = RelayInformationCallback(
        target=2,
        concepts={"joint": int, "odd": odd},
        measure=RelayMeasure(**options.get("measure", {})),
        sample=sample,
        dirpath=options["dirpath"],
        inputs_end=options.get("inputs_end"),
        latent=LatentMeasure(**options["latent"]) if "latent" in options else False,
    )
    callbacks: list[Any] = [callback]
    if "which" in options:
        which = getattr(lightning_relay, options["which"])(**options.get("which_options", {}))
        value = getattr(lightning_relay, options["value"])() if "value" in options else 0.0
        score = Logged("val_loss") if options.get("logged") else None
        callbacks.append(
            KnockoutCallback(which, value=value, score=score, target=2, dirpath=options["dirpath"])
        )
    data: Any = TensorDataset(SERIES, LENGTHS, LABELS)
    if options.get("uneven"):
        data = Uneven()
    devices = options["devices"]
    if options.get("fit"):
        callbacks.append(EarlyStopping("relay/joint/mutual_information", patience=9, mode="max"))
    trainer = quiet_trainer(
        *callbacks[0 if options.get("callbacks", True) else len(callbacks) :],
        devices=devices,
        strategy=options.get("strategy", "ddp" if devices > 1 else "auto"),
        use_distributed_sampler=not options.get("uneven"),
        max_epochs=options.get("max_epochs", 2),
    )
    model = Packed(options.get("fails_in"), options.get("cell", "GRU"))
    loader = DataLoader(data, options.get("batch_size", 32 // devices))
    if options.get("fit"):
        trainer.fit(model, loader, loader, ckpt_path=options.get("resumed"), weights_only=True)
        if "checkpoint" in options:
            trainer.save_checkpoint(options["checkpoint"])
        weights = torch.cat([parameter.flatten() for parameter in model.parameters()])
        said: Any = [*weights.tolist(), torch.rand(1).item()]
        if "resumed" in options:
            said = [
                [report.epoch, checksum_of(file_of(report))]
                for own in callbacks
                for report in getattr(own, "reports", ())
            ]
    else:
        (logged,) = trainer.validate(model, loader, verbose=False)
        said = dict(logged)
    path = Path(options["dirpath"], f"process{trainer.global_rank}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for run in json.loads(sys.argv[1]):
        main(run)
