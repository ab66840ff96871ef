"""Known forms of a user's rows, recognised by their columns, and rendered as examples.

::

    input_output        {"input": "cat", "output": ["hat", "bat"]}            ours: also options, id, template
    prompt_completion   {"prompt": "Rhyme cat:", "completion": "hat"}         texts, or lists of messages
    alpaca              {"instruction": "Rhyme.", "input": "cat", "output": "hat"}
    messages            {"messages": [{"role": "user", "content": "Hello"}, ...]}
    sharegpt            {"conversations": [{"from": "human", "value": "Hello"}, ...]}

``FileTasks`` uses them. A form is a set of field names; the columns of a file may be mapped to other names.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ...data_files import parse_json
from ...messages import nearest, some
from ...schema import Example, Role, Turn
from ..rows.row import Row, holds_null
from .conversations import (
    MESSAGE_KEYS,
    ROLES,
    TRAINED_KEYS,
    conversation,
    looks_like_messages,
    messages_of,
    turns_of,
    unreadable,
)
from .unknown_columns import mapping_hint, preference_problem

Form = Literal["input_output", "prompt_completion", "alpaca", "messages", "sharegpt"]
"""Form of the rows of a file; the head of this module shows a row of each."""

FIELDS: Mapping[Form, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "messages": (("messages",), ("system",)),
    "sharegpt": (("conversations",), ("system",)),
    "alpaca": (("instruction", "output"), ("input",)),
    "prompt_completion": (("prompt", "completion"), ()),
    "input_output": (("input", "output"), ("id", "options", "template")),
}
"""(required fields, optional fields) of each form; forms are tried in this order."""

NAMELESS = "(without a name)"
"""Name in reports of a column whose name is empty, e.g. of the row numbers that pandas writes."""


@dataclass(frozen=True)
class RowForm:
    """Format of the rows in a user's file, e.g. ``alpaca`` or ``messages``; turns a row into an example.

    Args:
        name: Name of the format.
        columns: Column of the file for each field of the format whose name differs from it.
        roles: ``system``, ``user`` or ``assistant`` for each role name in the file's conversations.
        strict: Whether an unknown column whose name resembles a missing optional field is an error.
        definition: System turn to add to conversations without one; empty for none.
    """

    name: Form
    columns: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, Role] = field(default_factory=lambda: ROLES)
    strict: bool = False
    definition: str = ""

    @property
    def conversations(self) -> bool:
        """Whether every row is a conversation, a list of messages."""
        return self.name in MESSAGE_KEYS

    def column(self, name: str) -> str:
        """Return the column of the file that holds a field of the form."""
        return self.columns.get(name, name)

    def read_columns(self) -> list[str]:
        """Return the columns that are read, of required and optional fields, if a file has them."""
        required, optional = FIELDS[self.name]
        return [self.column(name) for name in (*required, *optional)]

    def __str__(self) -> str:
        renamed = ", ".join(f"{name} from {column!r}" for name, column in self.columns.items())
        return f"{self.name} ({renamed})" if renamed else self.name

    def example(self, task: str, index: int, row: Row) -> Example:
        """Return the example of a row; a row that cannot be used gives one whose ``skipped`` is the reason.

        Args:
            task: Name of the task.
            index: Index of the row in its file.
            row: The row.

        Raises:
            ValueError: A field is missing or has another type; the error names file and row.
        """
        if self.strict:
            self._reject_misspelt(row)
        required, optional = FIELDS[self.name]
        for name in required:
            if _is_null(row.value(self.column(name))):
                return _skipped(task, index, f"null in {self.column(name)!r}")
        names = {name: self.column(name) for name in (*required, *optional) if self.column(name) in row.fields}
        fields = {name: row.fields[column] for name, column in names.items()}
        if not self.conversations:
            fields = {name: numbers_as_text(value) for name, value in fields.items()}
        known = Row({name: value for name, value in fields.items() if not _is_null(value)}, row.location)
        match self.name:
            case "messages" | "sharegpt":
                return self._conversation(task, index, known)
            case "prompt_completion":
                return self._completion(task, index, known)
            case "alpaca":
                parts = known.text("instruction"), known.text("input", default="")
                text = "\n".join(part for part in parts if part.strip())
                return Example(task, f"{task}-{index}", index, text, (known.text("output"),))
            case "input_output":
                return _example(task, index, known)

    def _conversation(self, task: str, index: int, row: Row) -> Example:
        (column,), _ = FIELDS[self.name]
        messages, keys = messages_of(row, column), MESSAGE_KEYS[self.name]
        if reason := unreadable(messages, keys, self.roles):
            return _skipped(task, index, reason)
        turns = turns_of(messages, keys, self.roles)
        if turns and turns[0].role != "system" and (system := row.text("system", default="")):
            turns = (Turn("system", system), *turns)
        return conversation(task, index, turns, self.definition)

    def _completion(self, task: str, index: int, row: Row) -> Example:
        if not any(looks_like_messages(row.value(column)) for column in ("prompt", "completion")):
            return Example(task, f"{task}-{index}", index, row.text("prompt"), (row.text("completion"),))
        messages = [*_messages_or_text(row, "prompt", "user"), *_messages_or_text(row, "completion", "assistant")]
        keys = MESSAGE_KEYS["messages"]
        if reason := unreadable(messages, keys, self.roles):
            return _skipped(task, index, reason)
        return conversation(task, index, turns_of(messages, keys, self.roles), self.definition)

    def _reject_misspelt(self, row: Row) -> None:
        missing = [name for name in ("options", "template") if self.column(name) not in row.fields]
        for column in row.fields.keys() - set(self.read_columns()):
            if close := difflib.get_close_matches(column, missing, n=1, cutoff=0.75):
                raise row.error(
                    f"unknown field {column!r}; nearest: {close[0]}; fields are "
                    f"{', '.join(sorted(self.read_columns()))}; if it is none of them, `form: {self.name}` reports it "
                    "as not read"
                )


def recognised_form(first: Row, columns: Mapping[str, str], roles: Mapping[str, str], definition: str) -> RowForm:
    """Recognise the format of a user's file, e.g. ``alpaca``, by the columns of its first row.

    Args:
        first: First row of the file.
        columns: Column of the file for each field that the user maps.
        roles: ``system``, ``user`` or ``assistant`` for each role name that the user maps.
        definition: The task's instruction, which becomes the system turn of its conversations.

    Raises:
        ValueError: The columns fit no known form.
    """
    if problem := preference_problem(first, columns.values()):
        raise first.error(problem)
    present = {name for name in first.fields if name not in columns.values()} | set(columns)
    for name, (required, _) in FIELDS.items():
        if present.issuperset(required):
            form, mapping = _by_messages(name, first, columns)
            return declared_form(form, mapping, roles, definition, strict=form == "input_output" and not columns)
    if not columns and (in_small := _in_small_letters(first)):
        return recognised_form(first, in_small, roles, definition)
    if "conversations" not in present and "messages" not in present and {"input", "output"} & present:
        missing = next(name for name in ("input", "output") if name not in present)
        raise first.error(f"no {missing!r}; {nearest(missing, first.fields)}; there are {some(list(first.fields))}")
    names = ", ".join(name or NAMELESS for name in first.fields)
    raise first.error(f"the columns {names} are those of no known form ({_listed_forms()}); {mapping_hint(first)}")


def declared_form(
    form: Form, columns: Mapping[str, str], roles: Mapping[str, str], definition: str, *, strict: bool = False
) -> RowForm:
    """Return a named format of rows with the columns and roles that the user maps, after a check of their names.

    Args:
        form: Name of the format, e.g. ``alpaca``.
        columns: Column of the file for each field that the user maps.
        roles: ``system``, ``user`` or ``assistant`` for each role name that the user maps.
        definition: The task's instruction, which becomes the system turn of its conversations.
        strict: Whether an unknown column whose name resembles a missing optional field is an error.

    Raises:
        ValueError: The format has no such field, or a role is mapped to none of the three.
    """
    required, optional = FIELDS[form]
    for name in columns:
        if name not in (*required, *optional):
            known = [*required, *optional]
            raise ValueError(
                f"columns: {form} has no field {name!r}; {nearest(name, known)}; fields are {', '.join(known)}"
            )
    return RowForm(form, dict(columns), known_roles(roles), strict, definition)


def known_roles(roles: Mapping[str, str]) -> dict[str, Role]:
    """Return the role of each known name of a speaker, with those that the user maps.

    Raises:
        ValueError: A name is mapped to none of the three roles.
    """
    for name, role in roles.items():
        if role not in get_args(Role):
            raise ValueError(f"roles: {name!r} should be one of {', '.join(get_args(Role))}, got {role!r}")
    return {**ROLES, **roles}  # type: ignore[dict-item]


def unread_columns(form: RowForm, rows: Iterable[Row]) -> list[str]:
    """Return the names of columns in a user's rows, and of keys in their messages, that are not read.

    Args:
        form: Format of the rows.
        rows: Rows to look at.
    """
    read = set(form.read_columns())
    unread: dict[str, None] = {}
    for row in rows:
        unread.update(dict.fromkeys(column for column in row.fields if column not in read))
        if form.conversations:
            (name,), _ = FIELDS[form.name]
            column = form.column(name)
            keys = (key for message in messages_of(row, column) for key in message.fields)
            others = (key for key in keys if key not in (*MESSAGE_KEYS[form.name], *TRAINED_KEYS))
            unread.update(dict.fromkeys(f"{column}[].{key}" for key in others))
    return [column or NAMELESS for column in unread]


def _by_messages(form: Form, first: Row, columns: Mapping[str, str]) -> tuple[Form, dict[str, str]]:
    """Return the form and columns of a conversation by the keys of its messages: ``conversations`` may hold either."""
    mapping = dict(columns)
    if form not in MESSAGE_KEYS:
        return form, mapping
    (name,), _ = FIELDS[form]
    column = mapping.pop(name, name)
    keys = {key for message in messages_of(first, column) for key in message.fields}
    fitting = [other for other, pair in MESSAGE_KEYS.items() if keys.issuperset(pair)]
    if keys and not fitting:
        raise first.error(
            f"the messages in {column!r} have the keys {', '.join(sorted(keys))}; expected role and content, or from "
            "and value"
        )
    actual: Form = "sharegpt" if fitting == ["sharegpt"] else "messages" if fitting else form
    (actual_name,), _ = FIELDS[actual]
    return actual, {**mapping, **({actual_name: column} if column != actual_name else {})}


def _in_small_letters(first: Row) -> dict[str, str]:
    """Return the columns for fields that they equal in small letters; {} if no form has all its required fields."""
    lower = {column.strip().lower(): column for column in first.fields}
    for required, optional in FIELDS.values():
        if lower.keys() >= set(required):
            return {name: lower[name] for name in (*required, *optional) if lower.get(name, name) != name}
    return {}


def _messages_or_text(row: Row, column: str, role: str) -> list[Row]:
    """Return the messages in a column; a text is one message of the given role."""
    value = row.value(column)
    if isinstance(value, str) and not looks_like_messages(value):
        return [Row({"role": role, "content": value}, row.location)]
    return messages_of(row, column)


def numbers_as_text(value: object) -> object:
    """Return a value with its numbers as texts, written as in JSON: ``3`` is the answer "3".

    >>> numbers_as_text(3), numbers_as_text([0.5, True]), numbers_as_text("a")
    ('3', ['0.5', 'true'], 'a')
    """
    if isinstance(value, list | tuple):
        return [numbers_as_text(each) for each in value]
    return json.dumps(value) if isinstance(value, int | float) and not _is_null(value) else value


def _is_null(value: object) -> bool:
    return not isinstance(value, list | tuple | Mapping) and holds_null(value)


def _skipped(task: str, index: int, reason: str) -> Example:
    return Example(task, f"{task}-{index}", index, "", (), skipped=reason)


def _listed_forms() -> str:
    return "; ".join(f"{form}: {', '.join(required)}" for form, (required, _) in FIELDS.items())


def _example(task: str, index: int, row: Row) -> Example:
    targets = row.texts("output")
    options = _listed(row, "options")
    if not any(target.strip() for target in targets):
        return _skipped(task, index, "empty target")
    if not all(target.strip() for target in targets):
        raise row.error("'output' holds an empty answer beside others; remove it")
    if options and targets[0] not in options:
        raise row.error(f"the answer {targets[0]!r} is none of the options {json.dumps(options, ensure_ascii=False)}")
    if options and (len(set(options)) < len(options) or not all(option.strip() for option in options)):
        raise row.error("'options' holds an option twice, or an empty one")
    return Example(
        task=task,
        id=row.text("id", default="") or f"{task}-{index}",
        index=index,
        input=row.text("input"),
        targets=targets,
        template=row.text("template", default="") or None,
        options=options,
        answer=options.index(targets[0]) if options else None,
    )


def _listed(row: Row, key: str) -> tuple[str, ...]:
    """Return the texts of a list, which a table holds as JSON."""
    value = row.fields.get(key, ())
    if isinstance(value, str):
        listed = parse_json(value, f"{row.location}, {key!r}") if value.strip() else []
        return Row({key: listed}, row.location).texts(key)
    return row.texts(key, default=())
