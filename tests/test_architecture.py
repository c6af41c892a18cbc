"""Floors, names and imports: what CONTRIBUTING.md promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lightning_relay
import lightning_relay.information

if TYPE_CHECKING:
    from types import ModuleType

PACKAGE = Path(lightning_relay.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path, *, types: bool = True) -> set[str]:
    """Modules of the package that a module imports, inside functions too, and for types."""
    tree = ast.parse(path.read_text())
    if not types:
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ]
    return {
        node.module.removeprefix("lightning_relay.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.startswith("lightning_relay.")
    }


IMPORTS = {dotted(path): imports_of(path) for path in MODULES}


def floors(imports: dict[str, set[str]]) -> list[list[str]]:
    """What imports nothing, what imports only that, and so on; a circle is an error."""
    sorter = TopologicalSorter(imports)
    sorter.prepare()
    found = []
    while sorter.is_active():
        found.append(sorted(sorter.get_ready()))
        sorter.done(*found[-1])
    return found


def rooms() -> dict[str, set[str]]:
    """Which folders each folder imports from."""
    found: dict[str, set[str]] = {}
    for name, modules in IMPORTS.items():
        own = name.partition(".")[0]
        others = {module.partition(".")[0] for module in modules}
        found.setdefault(own, set()).update(others - {own, "lazy"})
    # In no folder: below all, above all reports, and above all.
    for module in ("lazy", "load", "command_line", "__main__"):
        del found[module]
    return found


def test_folders_stand_on_floors_and_import_downwards_only() -> None:
    found = floors(rooms())
    assert found[0] == ["information", "recurrent", "reports", "tasks"]
    assert found[-1] == ["callbacks", "tensorboard_plugin"]


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    running = {dotted(path): imports_of(path, types=False) for path in MODULES}
    assert sum(map(len, floors(running))) == len(MODULES)


def test_every_folder_and_its_floor_are_told_to_contributors() -> None:
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    told = dict(re.findall(r"^  (\w+)/ +floor (\d) ", page, flags=re.MULTILINE))
    assert told == {
        room: str(floor) for floor, found in enumerate(floors(rooms()), 1) for room in found
    }


def test_tests_share_what_is_in_support_and_nothing_else() -> None:
    for path in Path(__file__).parent.rglob("*.py"):
        for module in re.findall(r"^ *from tests\.(\w+)", path.read_text(), flags=re.MULTILINE):
            assert module == "support", f"{path.name} imports from tests.{module}"


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


@pytest.mark.parametrize(
    "modules", [["information", "recurrent", "metrics"], ["sampling", "relay.analysis"]]
)
def test_the_measures_need_no_lightning(modules: list[str]) -> None:
    imports = "; ".join(f"import lightning_relay.{name}" for name in modules)
    code = f"import sys; {imports}; print('lightning' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("package", [lightning_relay, lightning_relay.information])
def test_every_public_name_can_be_imported_and_is_known_to_type_checkers(
    package: ModuleType,
) -> None:
    assert dir(package) == package.__all__
    source = Path(str(package.__file__)).read_text()
    typed = re.findall(r"from (\S+) import (?:\(\s+)?(\w+) as", source)
    assert {name: home for home, name in typed} == package._HOMES
    assert set(package._HOMES) == set(package.__all__) - {"__version__"}
    for home, name in typed:
        assert getattr(package, name) is getattr(import_module(home), name)
    with pytest.raises(
        AttributeError, match=f"module {package.__name__!r} has no attribute 'relays'"
    ):
        package.relays  # noqa: B018
