"""Makes the pictures of the page about the tab: an RNN and a GRU on the memory task.

It takes chromium and chromedriver, as the tests of the tab do.

python docs/tab_pictures.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_relay import RelayInformationCallback
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier
from tests.support.browser import opened_browser, tensorboard

CELLS: tuple[Cell, ...] = ("rnn", "gru")
IMAGES = Path(__file__).parent / "images"
VIEWS = {
    "tab": {"run": "gru", "concept": "bit_0"},
    "tab_two_runs": {"run": "rnn", "beside": "gru", "concept": "bit_0"},
}
SCROLLED = {"tab": 0, "tab_two_runs": 210}


def main() -> None:
    """Train both cells, and photograph the tab."""
    task = MemoryTask(bits=3, delay=10)
    with TemporaryDirectory() as logs:
        for cell in CELLS:
            seed_everything(0)
            relays = RelayInformationCallback(
                concepts={"pattern": int, **task.concepts}, inputs_end=task.inputs_end
            )
            trainer = Trainer(
                max_epochs=15,
                gradient_clip_val=1.0,
                callbacks=[relays],
                logger=CSVLogger(logs, name=None, version=cell),
            )
            trainer.fit(RecurrentClassifier(cell, task.input_size, task.num_classes), task)
        log = Path(logs) / "tensorboard.txt"
        with tensorboard(Path(logs), log) as address, opened_browser() as tab:
            for name, chosen in VIEWS.items():
                parts = (f"p.lightning_relay.{key}={value}" for key, value in chosen.items())
                tab.open(address, f"&{'&'.join(parts)}", whole=True)
                tab.run("window.scrollTo(0, arguments[0])", SCROLLED[name])
                tab.run("return new Promise((done) => setTimeout(done, 1000))")
                tab.wait()
                tab.browser.save_screenshot(str(IMAGES / f"{name}.png"))


if __name__ == "__main__":
    main()
