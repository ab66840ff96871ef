"""Help texts of commands, from the docstrings of their files: summary, description and example.

The files are parsed, not imported, so that ``crosstask --help`` needs no libraries.
"""

import ast
from pathlib import Path
from typing import NamedTuple

COMMANDS = Path(__file__).parents[1]
GROUPS = {
    "Train and evaluate": ("fit", "validate", "test", "predict", "chat", "sweep"),
    "Data": ("download", "check", "inspect", "prepare", "describe", "decontaminate", "tokenizer", "toybench"),
    "Scorer": ("samples", "adapt", "adaptations", "select", "classify", "scaling"),
    "Instruction optimization": ("splits", "instructions"),
    "Inspect": ("plan", "report", "export", "replay", "doctor"),
}
"""Commands by heading, in the order of ``crosstask --help``."""


class CommandDoc(NamedTuple):
    """Help texts of a command.

    Args:
        summary: One line without a full stop.
        description: Summary and explanation.
        example: Example command lines, with the heading "Example:".
    """

    summary: str
    description: str
    example: str


def command_names() -> list[str]:
    """Return the names of all commands, sorted."""
    return sorted(path.stem for path in COMMANDS.glob("*.py") if path.stem != "__init__")


def command_doc(name: str) -> CommandDoc:
    """Return the help texts of a command, from the docstring of its file."""
    text = ast.get_docstring(ast.parse((COMMANDS / f"{name}.py").read_text(encoding="utf-8"))) or ""
    description, heading, example = text.partition("Example:\n")
    return CommandDoc(description.partition("\n")[0].rstrip("."), description.strip(), (heading + example).rstrip())


def overview() -> str:
    """Return the text of ``crosstask --help``: all commands with their summaries."""
    lines = ["usage: crosstask COMMAND [options]", ""]
    for group, names in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:<14} {command_doc(name).summary}" for name in names), ""]
    lines += [
        "`crosstask COMMAND --help` explains a command. --config FILE reads its options from a YAML file;",
        "--config NAME reads one that is installed with crosstask, e.g. --config quickstart.",
    ]
    return "\n".join(lines)
