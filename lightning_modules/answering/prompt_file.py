"""Prompts of a user's file: JSON lines with a prompt or with messages, all checked before a model is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from ...datamodules.data_files import parse_json
from ...datamodules.messages import kind, some
from ...datamodules.schema import Role, Turn

ROLES = get_args(Role)
Messages = list[dict[str, str]]


class Question(NamedTuple):
    """A line of the file.

    Args:
        line: Its number, from 1.
        id: The line's field ``id``; None without one.
        messages: The conversation up to the user's last message; a prompt is one message of the user.
    """

    line: int
    id: Any
    messages: Messages

    @property
    def prompt(self) -> str:
        """The text of the last message."""
        return self.messages[-1]["content"]


def turns_from(messages: Messages) -> list[Turn]:
    """The messages as turns of a conversation."""
    return [Turn(cast("Role", message["role"]), message["content"]) for message in messages]


def read_questions_file(path: Path, system: str | None = None) -> list[Question]:
    """The questions of a file.

    Args:
        path: JSON lines, each with ``prompt`` (a text) or ``messages`` (role and content, the last one the user's),
            and optionally ``id``. Empty lines are passed over.
        system: System message of conversations that have none.

    Raises:
        ValueError: Lines are none of this; names the first of them and counts all.
    """
    questions, errors = [], []
    with open(path, encoding="utf-8") as file:
        try:
            lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    for number, line in lines:
        try:
            fields = parse_json(line, f"{path}, line {number}")
            questions.append(Question(number, *_question(fields, f"{path}, line {number}", system)))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError(f"{len(errors)} of {len(lines)} lines cannot be answered, the first: {errors[0]}")
    if not questions:
        raise ValueError(f"{path} has no line to answer")
    return questions


def _question(fields: Any, where: str, system: str | None) -> tuple[Any, Messages]:
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where}: expected an object with prompt or messages, got {kind(fields)}")
    if ("prompt" in fields) == ("messages" in fields):
        there = some(list(map(str, fields)))
        raise ValueError(f"{where}: expected either the field prompt or the field messages, got the fields {there}")
    if "prompt" in fields:
        messages = [{"role": "user", "content": _text(fields["prompt"], f"{where}, prompt")}]
    else:
        messages = list(_messages(fields["messages"], f"{where}, messages"))
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
