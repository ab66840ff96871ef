"""Every option that a page of the documentation names is a parameter of the code."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import lightning.pytorch as lightning
import pytest
from doc_pages import PAGES, ROOT, code_of
from lightning.pytorch import loggers

ROOMS = ("cli.py", "commands", "callbacks", "datamodules", "lightning_modules", "experiments", "examples", "perf")
OTHERS = {
    *("init_args", "class_path", "trainer", "model", "data", "print_config", "seed_everything"),  # of LightningCLI
    "lr_scheduler",  # trainer_settings.md says that it is not offered
    "mine",  # a collection of the reader
}


@cache
def known_names() -> frozenset[str]:
    """Return the names of parameters, fields and ``--options`` in our code, and of Trainer and its loggers."""
    names = set(OTHERS)
    for room in ROOMS:
        for path in [ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    names |= {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    names.add(node.target.id)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
                    names.add(node.value[2:])
    for other in (lightning.Trainer, loggers.WandbLogger, loggers.MLFlowLogger, loggers.TensorBoardLogger):
        names |= set(inspect.signature(other.__init__).parameters)
    return frozenset(names)


def named_options(page: str) -> list[str]:
    """Return the options behind ``crosstask COMMAND``, those alone in code, and settings as ``data.rows.length``."""
    options = []
    for code in code_of(page):
        for line in code.replace("\\\n", " ").splitlines():
            command = re.search(r"(?:^|\s)crosstask [a-z].*", line)
            words = command[0] if command else line if re.match(r"\s*--|run=", line) else ""
            options += re.findall(r"(?<![\w-])--([a-zA-Z][\w.]*)", words)
    return options + re.findall(r"`((?:data|model|trainer)\.(?!fit\b)[\w.]+)", page)


def unknown_options(page: str) -> list[str]:
    """Return the options of a page of which a part, between dots, is no name in the code."""
    return [option for option in named_options(page) if not known_names().issuperset(option.split("."))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_option_of_a_page_exists(path: Path) -> None:
    assert unknown_options(path.read_text(encoding="utf-8")) == []


def test_unknown_options_are_reported() -> None:
    block = 'crosstask fit --config a \\\n  --trainer.gone 1\nother --gone 1\nrun="--model.gone 1"\n'
    page = f"`--data.rows.gone 3`, `data.gone`\n```bash\n{block}```"
    assert unknown_options(page) == ["data.rows.gone", "trainer.gone", "model.gone", "data.gone"]
