"""docs/private_names.md lists every private name of another library that production code uses."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.tensor.parallel import ParallelStyle

import crosstask

ROOT = Path(crosstask.__file__).parent
ROOMS = ("datamodules", "lightning_modules", "callbacks", "commands")
FILES = [ROOT / "cli.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
ROW = re.compile(r"^\| `([\w.]+)` \| `([\w/.]+)` \| .+ \| `([\w/.]+)` \|$", re.M)
LISTED = ROW.findall((ROOT / "docs" / "private_names.md").read_text(encoding="utf-8"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def called(node: ast.Call) -> str:
    """Name of a called function, with that of its module or object; empty if it is longer."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return f"{node.func.value.id}.{node.func.attr}"
    return ""


def own_names() -> set[str]:
    """Names that the package defines or assigns, and documented ones: those of named tuples, and ``os._exit``."""
    names = {"_replace", "_asdict", "_fields", "_exit"}
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


def private_names(path: Path, own: set[str]) -> Iterator[str]:
    """Names and modules with a leading underscore that a file takes from other libraries."""
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (alias.name for alias in node.names if is_private(alias.name))
            if any(map(is_private, (node.module or "").split("."))):
                yield node.module or ""
        elif isinstance(node, ast.Call) and called(node) in ("getattr", "hasattr", "setattr", "patch.object"):
            yield from (a.value for a in node.args[1:2] if isinstance(a, ast.Constant) and is_private(str(a.value)))


def test_every_private_name_has_a_row() -> None:
    own = own_names()
    used = {(name, str(path.relative_to(ROOT))) for path in FILES for name in private_names(path, own)}
    assert len(used) > 20  # the search finds them
    assert used - {(name, file) for name, file, _ in LISTED} == set()


@pytest.mark.parametrize(("name", "file", "test"), LISTED, ids=lambda value: value)
def test_a_row_is_of_a_name_in_use_and_of_a_test(name: str, file: str, test: str) -> None:
    assert name in (ROOT / file).read_text(encoding="utf-8")
    assert (ROOT / test).is_file()


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (RichProgressBar, "_get_train_description"),
        (LightningCLI, "_prepare_subcommand_kwargs"),
        (LightningCLI, "_parse_ckpt_path"),
        (MemTracker, "_update_peak_stats"),
        (ParallelStyle, "_apply"),
    ],
)
def test_an_overridden_method_exists(base: type, name: str) -> None:
    """An override of a method that the library no longer calls would do nothing, without an error."""
    assert callable(getattr(base, name))


def test_assigned_attributes_exist() -> None:
    strategy = ModelParallelStrategy(data_parallel_size=3, save_distributed_checkpoint=False)
    assert strategy._data_parallel_size == 3
    assert strategy._save_distributed_checkpoint is False
