"""A user's file of prompts: JSON lines or a table, all checked before a model is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from ...datamodules.benchmarks.rows.row_files import SUFFIXES, file_rows
from ...datamodules.data_files import format_of, parse_json, text_lines
from ...datamodules.messages import kind, some
from ...datamodules.schema import Role, Turn

ROLES = get_args(Role)
TABLES = tuple(suffix for suffix in SUFFIXES if suffix != ".jsonl")
Messages = list[dict[str, str]]


class Question(NamedTuple):
    """A line of the file: a prompt or a conversation to answer.

    Args:
        line: Number of the line, from 1; in a table, of the row.
        id: The line's field ``id``; None without one.
        messages: The conversation, which ends with a user's message. A prompt is a single message.
    """

    line: int
    id: Any
    messages: Messages

    @property
    def prompt(self) -> str:
        """Text of the last message."""
        return self.messages[-1]["content"]


def turns_from(messages: Messages) -> list[Turn]:
    """Return the messages as turns of a conversation."""
    return [Turn(cast("Role", message["role"]), message["content"]) for message in messages]


def read_questions_file(path: Path, system: str | None = None) -> list[Question]:
    """Return the questions of a file.

    Args:
        path: JSON lines, each with ``prompt`` (a text) or ``messages`` (with role and content, the last one the
            user's), and optionally ``id``; or a table with these columns. Empty lines are skipped.
        system: System message for conversations that have none; None for none.

    Raises:
        ValueError: Lines are none of this; names the first of them and counts all.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}, which should hold the prompts")
    questions, errors = [], []
    for number, where, record in _records(path):
        try:
            fields = parse_json(record, where) if isinstance(record, str) else record
            questions.append(Question(number, *_question(fields, where, system)))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        total = len(questions) + len(errors)
        raise ValueError(f"{len(errors)} of {total} lines cannot be answered, the first: {errors[0]}")
    if not questions:
        raise ValueError(f"{path} has no line to answer")
    return questions


def _records(path: Path) -> Iterator[tuple[int, str, str | Mapping[str, Any]]]:
    """Yield number, place and content of every line with text, or of every row of a table."""
    if format_of(path) in TABLES:
        for number, row in enumerate(file_rows(path), start=1):
            yield number, row.location, row.fields
        return
    for number, line in text_lines(path):
        if line.strip():
            yield number, f"{path}, line {number}", line


def _question(fields: Any, where: str, system: str | None) -> tuple[Any, Messages]:
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where}: expected an object with prompt or messages, got {kind(fields)}")
    if ("prompt" in fields) == ("messages" in fields):
        there = some(list(map(str, fields)))
        raise ValueError(f"{where}: expected either the field prompt or the field messages, got the fields {there}")
    if "prompt" in fields:
        messages = [{"role": "user", "content": _text(fields["prompt"], f"{where}, prompt")}]
    else:
        value = fields["messages"]  # in a column of texts, as JSON
        value = parse_json(value, f"{where}, messages") if isinstance(value, str) else value
        messages = list(_messages(value, f"{where}, messages"))
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return fields.get("id"), messages


def _messages(value: Any, where: str) -> Iterator[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: expected a list of messages, got {kind(value)}")
    for place, message in enumerate(value):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise ValueError(f"{where}[{place}]: expected role ({', '.join(ROLES)}) and content, got {kind(message)}")
        yield {"role": message["role"], "content": _text(message.get("content"), f"{where}[{place}]")}
    if value[-1]["role"] != "user":
        raise ValueError(f"{where}: the last message should be the user's, got the {value[-1]['role']}'s")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: expected a text that is not empty, got {kind(value)}")
    return value
