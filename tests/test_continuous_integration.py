"""Tests in a browser run in continuous integration, and are skipped only elsewhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.browser import browser_or_skip

SCRIPT = Path(__file__).parent.parent / ".ci" / "browser"
BASH = shutil.which("bash")
INSTALLS = """
[ "$2" = -y ] || exit 0  # an update
echo asked >> "$0.log"
[ "$(wc -l < "$0.log")" -ge {attempt} ] || exit 100
cp "$0" "${{0%/*}}/chromium" && cp "$0" "${{0%/*}}/chromedriver"
"""


def program(directory: Path, name: str, code: str) -> None:
    path = directory / name
    path.write_text(f"#!{BASH}\n{code}\n")
    path.chmod(0o755)


def installed(
    directory: Path, *, ci: bool, user: int = 0, attempt: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``.ci/browser`` where ``apt-get`` succeeds at an attempt, or is missing."""
    program(directory, "id", f"echo {user}")
    for name in ("cp", "wc"):
        (directory / name).symlink_to(str(shutil.which(name)))
    if attempt is not None:
        program(directory, "apt-get", INSTALLS.format(attempt=attempt))
    environment = {"PATH": str(directory)} | ({"CI": "true"} if ci else {})
    return subprocess.run(
        [str(BASH), str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("attempt", [1, 2])
def test_root_installs_a_browser_with_a_second_attempt(tmp_path: Path, attempt: int) -> None:
    result = installed(tmp_path, ci=True, attempt=attempt)
    assert (result.returncode, result.stderr) == (0, "")
    again = subprocess.run([str(BASH), str(SCRIPT)], env={"PATH": str(tmp_path)}, check=False)
    assert again.returncode == 0
    assert (tmp_path / "apt-get.log").read_text().split() == ["asked"] * attempt


@pytest.mark.parametrize("ci", [True, False])
@pytest.mark.parametrize(
    ("user", "attempt"),
    [
        pytest.param(0, 3, id="the mirror is down"),
        pytest.param(0, None, id="no apt"),
        pytest.param(1000, 1, id="not root"),
    ],
)
def test_no_browser_is_an_error_in_continuous_integration_only(
    tmp_path: Path, ci: bool, user: int, attempt: int | None
) -> None:
    result = installed(tmp_path, ci=ci, user=user, attempt=attempt)
    assert result.returncode == ci
    (line,) = result.stderr.splitlines()
    assert "no chromium and chromedriver" in line


def test_tests_in_a_browser_fail_in_continuous_integration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"\.ci/browser"):
        browser_or_skip()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match=r"\.ci/browser"):
        browser_or_skip()
