"""Floors, names and imports: what docs/architecture.md promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_relay

PACKAGE = Path(lightning_relay.__file__).parent
FLOORS = {
    "information": 1,
    "discretization": 1,
    "damage": 1,
    "hooks": 1,
    "recurrent": 2,
    "concepts": 2,
    "targets": 2,
    "predictions": 2,
    "report": 2,
    "rerun": 3,
    "knockout": 3,
    "capture": 3,
    "analysis": 3,
    "figures": 3,
    "reporting": 4,
    "knockout_analysis": 4,
    "callbacks": 5,
    "tasks": 5,
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(name: str) -> str:
    """First part of a module's dotted name inside the package."""
    return name.removeprefix("lightning_relay.").partition(".")[0]


def imported_rooms(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        room(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.partition(".")[0] == "lightning_relay"
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below_its_own(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported_rooms(path) - {own}:
        assert FLOORS[other] < FLOORS[own], f"{own} imports {other}"


def test_the_architecture_page_names_every_module_and_its_floor() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    named = dict(re.findall(r"^  (\w+)(?:\.py|/) +floor (\d)", page, flags=re.MULTILINE))
    assert {name: int(floor) for name, floor in named.items()} == FLOORS
    for path in MODULES:
        if path.name != "__init__.py" and path.parts[-2] != "tasks":
            assert re.search(rf"^ +{path.name} ", page, flags=re.MULTILINE), path.name


def test_importing_the_package_loads_neither_torch_nor_lightning_nor_numba() -> None:
    code = (
        "import sys, lightning_relay; dir(lightning_relay); "
        "print([name for name in ('torch', 'lightning', 'numpy', 'numba', 'tensorboard') "
        "if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("modules", [["information", "discretization"], ["recurrent", "analysis"]])
def test_the_measures_need_no_lightning(modules: list[str]) -> None:
    imports = "; ".join(f"import lightning_relay.{name}" for name in modules)
    code = f"import sys; {imports}; print('lightning' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_every_public_name_can_be_imported_and_is_known_to_type_checkers() -> None:
    for name in lightning_relay.__all__:
        assert getattr(lightning_relay, name) is not None
    assert dir(lightning_relay) == lightning_relay.__all__
    source = (PACKAGE / "__init__.py").read_text()
    typed = set(re.findall(r"import (?:\(\s+)?\w+ as (\w+)", source))
    assert typed | {"__version__"} == set(lightning_relay.__all__)
    with pytest.raises(AttributeError, match="module 'lightning_relay' has no attribute 'relays'"):
        lightning_relay.relays  # noqa: B018
