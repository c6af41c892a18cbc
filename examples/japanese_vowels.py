"""Which units of a GRU tell nine speakers apart, from recordings of different lengths?

Trains a GRU on the JapaneseVowels set that ships with aeon and prints test accuracy, relay
information at several steps and for every speaker, and the units that relay most.

    python examples/japanese_vowels.py [--epochs 40] [--log-dir runs]
"""

from __future__ import annotations

import argparse
import logging
import warnings
from functools import partial
from operator import eq

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_relay import RelayInformationCallback, SequenceSample
from lightning_relay.tasks import RecurrentClassifier, TimeSeriesTask


def main() -> None:
    """Train, test and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--log-dir", default="runs")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")

    seed_everything(0, verbose=False)
    task = TimeSeriesTask("JapaneseVowels")
    model = RecurrentClassifier("gru", task.input_size, task.num_classes, hidden_size=32)
    speakers = {f"speaker_{label}": partial(eq, label) for label in range(task.num_classes)}
    relays = RelayInformationCallback(
        concepts={"speaker": int, **speakers},
        inputs_end=-1,
        every_n_epochs=5,
        sample=SequenceSample(time_steps=[0, 3, 6, 9, 12, 15, -1]),
    )
    trainer = Trainer(
        max_epochs=arguments.epochs,
        callbacks=[relays],
        logger=TensorBoardLogger(
            arguments.log_dir, name="japanese_vowels", default_hp_metric=False
        ),
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(model, task)
    (metrics,) = trainer.test(model, task, verbose=False)

    report = relays.reports[-1]
    layer = report["rnn.l0"]
    print(f"\nJapaneseVowels, GRU of 32 units: test accuracy {metrics['test_accuracy']:.3f}")
    print(f"{report.samples} of {report.samples_seen} test sequences analysed")
    print("\nstep -1 is the last step of each sequence; * input still to come for some.")
    print(
        "Where there are nearly as many states as sequences, they cannot tell what a unit relays."
    )
    print("The units named are the smallest set found that tells 90 % of what all units tell.")
    print("step  sequences  states  I(in; out)   I_R, bits  units that tell 90 %")
    relay = layer["speaker"]
    for place, step in enumerate(layer.time_steps):
        mark = "" if layer.inputs_ended[place] else "*"
        units = " ".join(map(str, relay.smallest_set(step=int(step))))
        print(
            f"{f'{step}{mark}':<6}{layer.samples[place]:9}{layer.distinct_states[place]:8}"
            f"{relay.mutual_information[place]:12.3f}{relay.information[place, 0]:12.3f}  {units}"
        )
    print("\nstep -1     I_R, bits  accuracy  units with the largest shares")
    for label, name in enumerate(speakers):
        relay = layer[name]
        accuracy = metrics[f"test_accuracy/class_{label}"]
        units = " ".join(map(str, relay.top_units(5)))
        print(f"{name:<12}{relay.information[-1, 0]:9.3f}{accuracy:10.3f}  {units}")
    print(f"\nLook further: tensorboard --logdir {arguments.log_dir}/japanese_vowels")


if __name__ == "__main__":
    main()
