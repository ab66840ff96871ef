"""Scripts outside the package name what the package has."""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [path for folder in ("perf", "experiments", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_from_the_package_exists(script: Path) -> None:
    imported = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "crosstask"
        for alias in node.names
    ]
    missing = [
        f"{module}.{name}"
        for module, name in imported
        if not hasattr(import_module(module), name)
        and find_spec(f"{module}.{name}") is None  # or it is imported lazily
    ]
    assert missing == []
