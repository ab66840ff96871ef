"""The package as a whole: what setup.cfg lists, what imports what, and the examples in docstrings."""

import ast
import configparser
import doctest
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import crosstask

ROOT = Path(crosstask.__file__).parent
ROOMS = ("datamodules", "lightning_modules", "callbacks", "cli")  # imports run from right to left


def modules() -> list[ModuleType]:
    names = [
        module.name for room in ROOMS[:3] for module in pkgutil.walk_packages([str(ROOT / room)], f"crosstask.{room}.")
    ]
    return [importlib.import_module(name) for name in [*names, "crosstask.cli"]]


def test_setup_lists_exactly_the_packages_that_are_there() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    there = {"crosstask"} | {
        ".".join(["crosstask", *path.parent.relative_to(ROOT).parts])
        for room in ROOMS[:3]
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(there)


def test_no_stray_module_stands_at_the_root() -> None:
    """Every .py file at the root would be importable as crosstask.<name>."""
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


@pytest.mark.parametrize("room", ROOMS[:3])
def test_imports_run_one_way(room: str) -> None:
    uphill = ROOMS[ROOMS.index(room) + 1 :]
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert not (node.module or "").startswith(uphill), f"{path} imports {node.module}"
            if isinstance(node, ast.ImportFrom | ast.Import) and not getattr(node, "level", 0):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not any(name.startswith("crosstask") for name in names), f"{path}: use a relative import"
