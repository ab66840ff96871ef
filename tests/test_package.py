"""The package as a whole: what setup.cfg lists, what imports what, and the examples in docstrings."""

import ast
import configparser
import doctest
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import crosstask

ROOT = Path(crosstask.__file__).parent
ROOMS = ("datamodules", "lightning_modules", "callbacks", "commands", "cli")
"""Imports run from right to left."""

MODULES_OF = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Libraries whose module has another name."""

ORDER = {
    "datamodules": (
        "tracked_files",
        "messages",
        "folder_files",
        "finite_values",
        "optional_packages",
        "data_files",
        "yaml_files",
        "file_digests",
        "hub_names",
        "pretrained_weights",
        "lazy_imports",
        "record_fields",
        "visible_text",
        "atomic_files",
        "worker_processes",
        "schema",
        "rouge",
        "splits",
        "rendering",
        "benchmarks",
        "downloads",
        "toybench",
        "storage",
        "mixture",
        "packing",
        "decontamination",
        "evaluation",
        "scoring",
        "bilevel",
        "stream_changes",
        "plans_and_stages",
        "base",
        "stored_training",
        "instruction_tuning",
        "instruction_optimization",
        "scorer",
        "inspection",
    ),
    "lightning_modules": (
        "cache_names",
        "encoder_outputs",
        "attention",
        "hypergradients",
        "hyperparameters",
        "named_classes",
        "full_parameters",
        "chunked_cross_entropy",
        "chunked_head",
        "target_loss",
        "expert_balance",
        "recomputation",
        "models",
        "optimization",
        "master_weights",
        "optimizer_classes",
        "prefixes",
        "generation",
        "model_digest",
        "quantized_blocks",
        "untrained_adapters",
        "adapters",
        "sharding",
        "callback_checks",
        "trainer_checks",
        "resumed_settings",
        "step_dumps",
        "nonfinite_stop",
        "optimizer_hooks",
        "planned_training",
        "evaluation",
        "instructions",
        "planning",
        "devices",
        "sampling",
        "scoring",
        "instruction_tuning",
        "instructed_training",
        "instruction_optimization",
        "scorer",
        "huggingface_folder",
        "checkpoint_export",
        "module_loading",
        "step_replay",
        "adaptation",
        "inference",
    ),
}
"""Folders and files of a room: each imports only what stands before it."""


def modules() -> list[ModuleType]:
    names = [
        module.name for room in ROOMS[:-1] for module in pkgutil.walk_packages([str(ROOT / room)], f"crosstask.{room}.")
    ]
    return [importlib.import_module(name) for name in [*names, "crosstask.cli"]]


def with_examples() -> list[ModuleType]:
    """The modules whose source has an example: the others would be searched for one class by class."""
    return [module for module in modules() if ">>>" in Path(str(module.__file__)).read_text()]


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax, which several tests read."""
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """What a file of a room imports from the package, as parts of a path from the root, e.g. ("datamodules", "schema").

    A name that is imported from a folder counts as a file of that folder where there is one.
    """
    here = path.parent.relative_to(ROOT).parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + tuple((node.module or "").split(".")) * bool(node.module)
            for alias in node.names:
                inner = (*base, alias.name)
                is_file = (ROOT.joinpath(*inner)).is_dir() or ROOT.joinpath(*inner).with_suffix(".py").is_file()
                yield inner if is_file else base


def test_setup_lists_exactly_the_packages_that_are_there() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    there = {"crosstask"} | {
        ".".join(["crosstask", *path.parent.relative_to(ROOT).parts])
        for room in ROOMS[:-1]
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(there)


def test_setup_requires_exactly_what_is_imported() -> None:
    """A library that comes with another one may go with its next version."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    names = [re.split(r"[\[<>=]", line)[0] for line in lines if line and not line.startswith("#")]
    required = [MODULES_OF.get(name, name.replace("-", "_")) for name in names]
    files = [path for room in ROOMS[:-1] for path in (ROOT / room).rglob("*.py")] + [ROOT / "cli.py"]
    imported = {name for path in files for name in libraries(path)}
    assert len(required) == len(set(required)), "a library is required twice"
    assert set(required) == imported - sys.stdlib_module_names - {"crosstask"}


def libraries(path: Path) -> Iterator[str]:
    """Top-level names of what a file imports from outside its package."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("room", ["datamodules", "datamodules.benchmarks", "lightning_modules", "callbacks"])
def test_a_room_offers_its_names_and_no_others(room: str) -> None:
    """Names are imported on first use: __all__, the imports for type checkers and the files of names must agree."""
    package = importlib.import_module(f"crosstask.{room}")
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Typo'"):
        _ = package.Typo
    body = tree(Path(str(package.__file__))).body
    (block,) = [node for node in body if isinstance(node, ast.If)]
    typed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(typed) == sorted(package.__all__)


def test_no_stray_module_stands_at_the_root() -> None:
    """Every .py file at the root would be importable as crosstask.<name>."""
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.mark.parametrize("module", with_examples(), ids=lambda module: module.__name__)
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


@pytest.mark.parametrize("room", ROOMS[:-1])
def test_imports_run_one_way_between_rooms(room: str) -> None:
    uphill = ROOMS[ROOMS.index(room) + 1 :]
    for path in (ROOT / room).rglob("*.py"):
        assert not [target for target in imports(path) if target and target[0] in uphill], path
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom | ast.Import) and not getattr(node, "level", 0):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not any(name.startswith("crosstask") for name in names), f"{path}: use a relative import"


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_one_way_between_the_folders_of_a_room(room: str) -> None:
    order = ORDER[room]
    there = {path.stem for path in (ROOT / room).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__"} == set(order), "a folder or file has no place in the order"
    for path in (ROOT / room).rglob("*.py"):
        place = path.relative_to(ROOT / room).parts[0].removesuffix(".py")
        if place == "__init__":
            continue
        for target in imports(path):
            if target[0] == room and len(target) > 1 and target[1] != place:
                assert order.index(target[1]) < order.index(place), f"{path} imports {'.'.join(target)}"


def test_the_folders_of_benchmarks_are_below_its_readers() -> None:
    """A folder imports only folders before it in this order, and the interface of readers."""
    order, here = ("rows", "templates", "own_data", "levels"), ("datamodules", "benchmarks")
    for place, folder in enumerate(order):
        for path in ROOT.joinpath(*here, folder).glob("*.py"):
            inside = {target[2] for target in imports(path) if target[:2] == here and target[2:]}
            assert inside <= {"benchmark", *order[: place + 1]}, path


def test_no_file_name_has_two_meanings() -> None:
    """A name stands in several rooms only where it is the method's own, or where a command calls what it names."""
    methods = {"__init__", "instruction_tuning", "instruction_optimization", "scorer"}
    found: dict[str, list[Path]] = {}
    for room in ROOMS[:-2]:
        for path in (ROOT / room).rglob("*.py"):
            if path.stem not in methods:
                found.setdefault(path.stem, []).append(path.relative_to(ROOT))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
