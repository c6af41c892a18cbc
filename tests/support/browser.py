"""TensorBoard on this machine, and its Relays tab in a browser without a window."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tensorboard_data_server import server_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0
"""Maximum number of seconds to wait for anything."""


with_either_loader = pytest.mark.parametrize(
    "load_fast",
    [
        pytest.param(
            "true",
            marks=pytest.mark.skipif(
                server_binary() is None, reason="there is no fast loader for this platform"
            ),
        ),
        "false",
    ],
)
"""TensorBoard's loaders of event files: a program of its own, or Python."""


def browser_or_skip() -> tuple[str, str]:
    """Paths of Chromium and its driver.

    Where they or selenium are missing, the test is skipped; in continuous integration it fails.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver and find_spec("selenium")):
        end = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        end("takes the package selenium, and chromium and chromedriver, which .ci/browser installs")
    return chromium, driver


def until(found: Callable[[], Any], what: str) -> Any:
    """The first result that is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.02)
    raise TimeoutError(f"{what} after {PATIENCE:.0f} s")


@contextmanager
def tensorboard(logdir: Path, log: Path, *, load_fast: str = "auto") -> Iterator[str]:
    """Address of a TensorBoard that shows a directory; it is ended with the block."""
    arguments = ["--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    arguments += ["--load_fast", load_fast]
    with log.open("w") as file:
        server = subprocess.Popen(
            [str(Path(sys.executable).parent / "tensorboard"), *arguments], stderr=file, stdout=file
        )
    try:

        def address() -> re.Match[str] | None:
            assert server.poll() is None, log.read_text()
            return re.search(r"http://127\.0\.0\.1:\d+", log.read_text())

        yield until(address, "TensorBoard has no address")[0]
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


class Tab:
    """The Relays tab in a browser.

    Args:
        browser: A driver of selenium.
    """

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(
        self, address: str, chosen: str = "", *, whole: bool = False, state: str = "ready"
    ) -> None:
        """Go to the tab and wait for what it shows; ``whole``: in the frame of TensorBoard's page.

        ``chosen`` is what the address says of the view.
        """
        self.browser.get("about:blank")
        page = "" if whole else "data/plugin_entry.html?name=lightning_relay"
        self.browser.get(f"{address}/{page}#lightning_relay{chosen}")
        if whole:
            frame = 'iframe[src*="name=lightning_relay"]'
            self.browser.switch_to.frame(
                until(lambda: self.browser.find_elements("css selector", frame), "no tab")[0]
            )
        self.wait(state)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that JavaScript returns in the tab."""
        return self.browser.execute_script(script, *arguments)

    def wait(self, state: str = "ready") -> None:
        until(lambda: self.run("return document.body?.dataset.state") == state, f"not {state}")

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def value(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).value", name))

    def choose(self, name: str, value: str) -> None:
        """Choose in one of the lists, and wait for what is shown then."""
        self.run(
            "const own = document.getElementById(arguments[0]); own.value = arguments[1];"
            "own.dispatchEvent(new Event('change'))",
            name,
            value,
        )
        self.wait()

    def trouble(self) -> list[str]:
        """Severe entries of the console since the last call; a frame alone has no icon."""
        return [
            str(entry["message"])
            for entry in self.browser.get_log("browser")
            if entry["level"] == "SEVERE" and "favicon.ico" not in entry["message"]
        ]


@contextmanager
def opened_browser() -> Iterator[Tab]:
    """A browser without a window; it is ended with the block."""
    chromium, driver = browser_or_skip()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(option)
    # Nothing outside this machine is asked, neither by the tab nor by Chromium itself.
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.add_argument("--window-size=1200,1400")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(driver)
    browser = webdriver.Chrome(options=options, service=service)
    try:
        yield Tab(browser)
    finally:
        browser.quit()
