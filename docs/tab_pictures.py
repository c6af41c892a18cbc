"""Makes the pictures of the page about the tab: an RNN, a GRU and an LSTM on the memory task.

It takes the extra dev, chromium and chromedriver, as the tests of the tab do.

python docs/tab_pictures.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_relay import KnockoutCallback, RandomSets, RelayInformationCallback
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier
from tests.support.browser import opened_browser, tensorboard

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")
IMAGES = Path(__file__).parent / "images"
VIEWS = {
    "tab": ("summaries", {"run": "gru", "concept": "bit_0", "unit": "11"}),
    "tab_two_runs": ("relay_share", {"run": "rnn", "beside": "gru", "concept": "bit_0"}),
    "tab_matters": ("prediction", {"run": "gru", "concept": "bit_0", "unit": "11"}),
    "tab_history": ("history", {"run": "lstm", "concept": "bit_0", "unit": "11"}),
}
"""What is chosen, and the section that is scrolled to, by the name of the picture."""

TO_SECTION = """
const own = document.querySelector(`[data-figure="${arguments[0]}"]`);
if (own) own.scrollIntoView(); else window.scrollTo(0, 0);
return new Promise((done) => setTimeout(done, 2000));
"""


def main() -> None:
    """Train the cells, and photograph the tab."""
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
                callbacks=[relays, KnockoutCallback(RandomSets(n=200), every_n_epochs=5)],
                logger=CSVLogger(logs, name=None, version=cell),
            )
            trainer.fit(RecurrentClassifier(cell, task.input_size, task.num_classes), task)
        log = Path(logs) / "tensorboard.txt"
        with tensorboard(Path(logs), log) as address, opened_browser() as tab:
            for name, (section, chosen) in VIEWS.items():
                parts = (f"p.lightning_relay.{key}={value}" for key, value in chosen.items())
                tab.open(address, f"&{'&'.join(parts)}", whole=True)
                for _ in range(2):  # sections above grow as they are drawn
                    tab.run(TO_SECTION, section)
                tab.wait()
                tab.browser.save_screenshot(str(IMAGES / f"{name}.png"))


if __name__ == "__main__":
    main()
