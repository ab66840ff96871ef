"""Help of commands, written from their source code without importing it, so that it appears at once.

An option whose type is a dataclass of the package is followed by its fields; a Literal type is shown by its values.
"""

import ast
import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from .command_docs import COMMANDS, command_doc


class Option(NamedTuple):
    """Option of a command, for its help.

    Args:
        name: Name without dashes; a field of a dataclass has a dot, e.g. ``examples.seed``.
        type: Type annotation.
        default: Default as YAML; None if the option is required.
        sentence: Text of the option in the docstring's ``Args:``.
    """

    name: str
    type: str
    default: str | None
    sentence: str


def static_help(name: str) -> str | None:
    """Return the help of a command that is one function, or that runs Lightning's trainer; None for other commands."""
    path = COMMANDS / f"{name}.py"
    function, doc = _called_function(_parsed(path)), command_doc(name)
    if function is not None:
        options = list(_function_options(path, function))
        leading = f" {options[0].name.upper()}" if options[0].type.startswith(("list[", "Sequence[")) else ""
        usage = f"crosstask {name}{leading} [options]"
    elif "run_and_leave" in path.read_text(encoding="utf-8"):
        options, usage = list(_trainer_options(name)), f"crosstask {name} --config FILE [options]"
    else:
        return None
    parser = ArgumentParser(
        prog=f"crosstask {name}",
        usage=usage,
        description=doc.description,
        epilog=doc.example,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML of options, by path or by name; later ones override.")
    for option in options:
        given = "required" if option.default is None else f"default: {option.default}"
        text = f"{option.sentence} (type: {option.type}, {given})"
        parser.add_argument(f"--{option.name}", metavar=option.name.rpartition(".")[2].upper(), help=_escaped(text))
    return parser.format_help()


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _called_function(tree: ast.Module) -> ast.FunctionDef | None:
    """Return the function that the command's ``run`` passes to ``run_function``; None if there is none."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(functions["run"]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "run_function":
            return functions[ast.unparse(node.args[0])]
    return None


def _trainer_options(name: str) -> Iterator[Option]:
    """Yield the options of fit, validate, test or predict: model, data, checkpoint, and the trainer's arguments."""
    for part, room in (("model", "lightning_modules"), ("data", "datamodules")):
        imported = ast.walk(_parsed(COMMANDS.parent / room / "__init__.py"))
        names = [alias.name for node in imported if isinstance(node, ast.ImportFrom) for alias in node.names]
        classes = ", ".join(sorted(each for each in names if each.endswith("Module")))
        sentence = f"--{part}.help CLASS shows the arguments of a class, which are options, e.g. --{part}.seed 1."
        yield Option(part, classes, None, sentence)
    yield Option(
        "ckpt_path", "str | None", "null", "Checkpoint to resume from or to load weights from; last for the last."
    )
    if name == "fit":
        text = "Resume although mixture, tasks, rows or seed are not those of the checkpoint."
        yield Option("changed_stream", "bool", "false", text)
    yield Option("without", "list[str]", "[]", "Callbacks to leave out of trainer.callbacks, by class name.")
    yield Option("seed_everything", "bool | int", "0", "Seed of the generators of random numbers.")
    lightning = find_spec("lightning")  # finds the folder, and imports nothing
    assert lightning is not None
    assert lightning.origin is not None
    path = Path(lightning.origin).parent / "pytorch/trainer/trainer.py"
    trainer = next(node for node in _parsed(path).body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
    functions = {node.name: node for node in trainer.body if isinstance(node, ast.FunctionDef)}
    for option in _function_options(path, functions["__init__"]):
        yield option._replace(name=f"trainer.{option.name}")


def _function_options(path: Path, function: ast.FunctionDef) -> Iterator[Option]:
    sentences = argument_sentences(ast.get_docstring(function) or "")
    arguments, defaults = [each for each in function.args.args if each.arg != "self"], function.args.defaults
    padded = [None] * (len(arguments) - len(defaults)) + [*defaults, *function.args.kw_defaults]
    for argument, default in zip([*arguments, *function.args.kwonlyargs], padded, strict=True):
        yield from _options(path, argument.arg, argument.annotation, default, sentences.get(argument.arg, ""))


def _options(
    path: Path, name: str, annotation: ast.expr | None, default: ast.expr | None, sentence: str
) -> Iterator[Option]:
    """Yield an option, and if its type is a dataclass, the fields of this."""
    assert annotation is not None
    first = annotation
    while isinstance(first, ast.BinOp):  # a union, e.g. of a class and paths in its place
        first = first.left
    definition, where = _definition(path, first)
    if first is not annotation and (not isinstance(definition, ast.ClassDef) or _fields(definition) is not None):
        definition = None
    shown = definition.value if isinstance(definition, ast.Assign) else annotation
    fields = _fields(definition)
    if isinstance(definition, ast.ClassDef) and fields is None:
        sentence += f" --{name}.help CLASS shows the options of a class."
    yield Option(name, ast.unparse(shown), None if default is None else _value(default), sentence)
    for field in fields or ():
        yield from _options(where, f"{name}.{field.name}", field.annotation, field.default, field.sentence)


class _Field(NamedTuple):
    """Field of a dataclass; `sentence` is its text in the docstring's ``Args:``."""

    name: str
    annotation: ast.expr
    default: ast.expr | None
    sentence: str


def _fields(definition: ast.stmt | None) -> list[_Field] | None:
    """Return the fields of a dataclass; None for anything else."""
    if not isinstance(definition, ast.ClassDef):
        return None
    if not any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list):
        return None
    sentences = argument_sentences(ast.get_docstring(definition) or "")
    return [
        _Field(node.target.id, node.annotation, node.value, sentences.get(node.target.id, ""))
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def _definition(path: Path, annotation: ast.expr) -> tuple[ast.stmt | None, Path]:
    """Return the definition of the type that an annotation names, and its file; None for types of other packages."""
    if not isinstance(annotation, ast.Name):
        return None, path
    for node in ast.walk(_parsed(path)):  # a package imports its names for type checkers alone
        if isinstance(node, ast.ClassDef) and node.name == annotation.id:
            return node, path
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == annotation.id:
            return node, path
        if isinstance(node, ast.ImportFrom) and node.level and annotation.id in [alias.name for alias in node.names]:
            module = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            source = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            return _definition(source, annotation) if source.is_file() else (None, path)
    return None, path


def _value(default: ast.expr) -> str:
    """Return a default as YAML writes it."""
    try:
        return json.dumps(ast.literal_eval(default)).strip('"') or '""'
    except ValueError:  # an object
        return ast.unparse(default)


def argument_sentences(docstring: str) -> dict[str, str]:
    """Return the text of each argument in a docstring's ``Args:``.

    >>> argument_sentences("Do.\\n\\nArgs:\\n    one: A number,\\n        above 0.\\n    two: B.\\n\\nNotes.")
    {'one': 'A number, above 0.', 'two': 'B.'}
    """
    _, _, section = docstring.partition("Args:\n")
    sentences: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith("    "):
            break
        text = line.strip()
        if line.startswith("    ") and not line.startswith("     "):
            name, _, text = text.partition(": ")
            sentences[name] = text
        elif text:
            sentences[name] += f" {text}"
    return sentences
