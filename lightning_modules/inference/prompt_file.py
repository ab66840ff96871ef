"""A user's file of prompts: JSON lines or a table, all checked before a model is loaded.

::

    {"prompt": "Rhyme cat:"}                                    also with a completion
    {"messages": [{"role": "user", "content": "Hello"}]}
    {"conversations": [{"from": "human", "value": "Hello"}]}
    {"instruction": "Rhyme.", "input": "cat"}                   also with an output
    {"input": "Rhyme cat:"}                                     also with an output

The answers of training rows (a completion, an output, or the assistant's last message) are references, which the model
does not read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from ...datamodules.benchmarks.own_data.conversations import (
    MESSAGE_KEYS,
    looks_like_messages,
    messages_of,
    turns_of,
    unreadable,
)
from ...datamodules.benchmarks.own_data.row_forms import known_roles, numbers_as_text
from ...datamodules.benchmarks.rows.row import Row, holds_null
from ...datamodules.benchmarks.rows.row_files import SUFFIXES, file_rows, read_rows
from ...datamodules.data_files import format_of, parse_json, text_lines
from ...datamodules.messages import kind, nearest, some
from ...datamodules.schema import Role, Turn

TABLES = tuple(suffix for suffix in SUFFIXES if suffix != ".jsonl")
CONVERSATIONS = ("messages", "conversations")
PROMPTS = (*CONVERSATIONS, "prompt", "instruction", "input")
ANSWERS = ("completion", "output")
FIELDS_READ = (*PROMPTS, *ANSWERS, "system", "id", "options", "template")
"""Fields that a user may map: those of all forms of training files; the last two are no part of a question."""
Roles = Mapping[str, Role]
Messages = list[dict[str, str]]


class Question(NamedTuple):
    """A prompt or a conversation to answer, as a line of a user's file has it.

    Args:
        line: Number of the line, from 1; in a table, of the row.
        id: The line's field ``id``; None without one.
        messages: The conversation, which ends with a user's message. A prompt is a single message.
        references: Answers in the file.
        skipped: The reason why the line is no question, e.g. a conversation with images; empty if it is one.
    """

    line: int
    id: Any
    messages: Messages
    references: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def prompt(self) -> str:
        """Text of the last message."""
        return self.messages[-1]["content"]


def turns_from(messages: Messages) -> list[Turn]:
    """Return the messages as turns of a conversation."""
    return [Turn(cast("Role", message["role"]), message["content"]) for message in messages]


def read_questions_file(
    path: Path,
    system: str | None = None,
    columns: Mapping[str, str] | None = None,
    roles: Mapping[str, str] | None = None,
) -> list[Question]:
    """Return the prompts and conversations in a user's file, one for each line or row.

    Args:
        path: JSON lines, a table, or the folder of a saved dataset's split. A line has the fields prompt; instruction,
            with or without input; input; messages; or conversations; and optionally ``id``. Empty lines are left out.
        system: System message for conversations that have none; None for none.
        columns: Column of the file for each of these fields whose name differs, as in training.
        roles: Role (system, user or assistant) of other names of speakers, as in training.

    Raises:
        ValueError: Lines have other fields; names the first such line and counts all.
    """
    if not path.exists():
        raise ValueError(f"no file {path}, which should hold the prompts")
    columns, known = dict(columns or {}), known_roles(roles or {})
    for name in columns:
        if name not in FIELDS_READ:
            names = ", ".join(FIELDS_READ)
            raise ValueError(f"columns: no field {name!r}; {nearest(name, FIELDS_READ)}; fields are {names}")
    questions, errors = [], []
    for number, where, record in _records(path):
        try:
            fields = parse_json(record, where) if isinstance(record, str) else record
            questions.append(_question(number, _renamed(fields, columns), where, system, known))
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
    if path.is_dir() and not (path / "state.json").exists():
        raise ValueError(
            f"{path} is a folder: name one of its files, or the folder of a saved dataset's split, e.g. {path / 'test'}"
        )
    if path.is_dir() or format_of(path) in TABLES:
        rows = read_rows(str(path), label_names=True) if path.is_dir() else file_rows(path)
        for number, row in enumerate(rows, start=1):
            yield number, row.location, row.fields
        return
    for number, line in text_lines(path):
        if line.strip():
            yield number, f"{path}, line {number}", line


def _renamed(record: Any, columns: Mapping[str, str]) -> Any:
    """Return a record with its mapped columns under the names of their fields, which hide other prompts."""
    mapped = {name: column for name, column in columns.items() if isinstance(record, Mapping) and column in record}
    if not mapped:
        return record
    hidden = set(mapped.values())
    if any(name in PROMPTS for name in mapped):
        hidden |= {name for name in PROMPTS if name != "input" or "instruction" not in mapped}
    others = {name: value for name, value in record.items() if name not in hidden}
    return others | {name: record[column] for name, column in mapped.items()}


def _question(line: int, record: Any, where: str, system: str | None, roles: Roles) -> Question:
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: expected an object with prompt or messages, got {kind(record)}")
    small = {str(name).strip().lower(): value for name, value in record.items()}  # as training reads the names
    fields = {name: value for name, value in small.items() if isinstance(value, list) or not holds_null(value)}
    present = [name for name in PROMPTS if name in fields]
    if not present and (null := next((name for name in PROMPTS if name in small), None)):
        return Question(line, record.get("id"), [], skipped=f"null in {null!r}")
    if len(present) != 1 and present != ["instruction", "input"]:
        names = [str(name) for name in record]
        raise ValueError(
            f"{where}: expected one of the fields {', '.join(PROMPTS)}, or instruction and input, got the fields "
            f"{some(names)}; name the one to answer, e.g. --columns '{{prompt: {names[0] if names else 'question'}}}'"
        )
    row, name = Row(fields, where), present[0]
    conversation = name in CONVERSATIONS or looks_like_messages(fields[name])
    read = _of_conversation(row, name, roles) if conversation else _of_texts(row, present, roles)
    question = Question(line, record.get("id"), *read)
    if system is not None and question.messages and question.messages[0]["role"] != "system":
        return question._replace(messages=[{"role": "system", "content": system}, *question.messages])
    return question


def _of_texts(row: Row, names: list[str], roles: Roles) -> tuple[Messages, tuple[str, ...], str]:
    """Return the prompt of a row of texts, its references, and the reason for skipping it."""
    texts = {name: numbers_as_text(row.fields[name]) for name in names}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{row.location}, {name}: expected a text, got {kind(text)}")
    prompt = "\n".join(text for value in texts.values() if (text := str(value)).strip())
    if not prompt:
        return [], (), f"empty text in {names[0]!r}"
    return [{"role": "user", "content": prompt}], _answers(row, roles), ""


def _of_conversation(row: Row, name: str, roles: Roles) -> tuple[Messages, tuple[str, ...], str]:
    """Return a conversation's messages up to its user's last one, its references, and the reason for skipping it."""
    messages = messages_of(row, name)
    if not messages:
        return [], (), "an empty conversation"
    sharegpt = MESSAGE_KEYS["sharegpt"]
    keys = sharegpt if all(key in messages[0].fields for key in sharegpt) else MESSAGE_KEYS["messages"]
    if reason := unreadable(messages, keys, roles):
        return [], (), reason
    turns = turns_of(messages, keys, roles)
    last = [turn.content for turn in turns[-1:] if turn.role == "assistant"]
    kept = turns[: len(turns) - len(last)]
    if kept and kept[0].role != "system" and (system := row.text("system", default="")):
        kept = (Turn("system", system), *kept)
    if not kept or kept[-1].role != "user" or not kept[-1].content.strip():
        return [], (), "a conversation whose last message, or the one before its last answer, is no text of the user"
    references = tuple(text for text in last if text.strip()) or _answers(row, roles)
    return [{"role": turn.role, "content": turn.content} for turn in kept], references, ""


def _answers(row: Row, roles: Roles) -> tuple[str, ...]:
    """Return the answers in the columns of a row."""
    for name in ANSWERS:
        if looks_like_messages(row.fields.get(name)):
            turns = turns_of(messages_of(row, name), MESSAGE_KEYS["messages"], roles)
            return tuple(turn.content for turn in turns if turn.role == "assistant")
        if name in row.fields:
            return Row({name: numbers_as_text(row.fields[name])}, row.location).texts(name)
    return ()
