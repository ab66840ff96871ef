"""Conversations of chat files: lists of messages as turns, and reasons for skipping conversations.

``row_forms.py`` uses them for rows of a user's files. The dialogues of OPT-IML, plain text without roles, are read by
``dialogue.py``; chat templates are in ``rendering/chat.py``.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, get_args

from ...data_files import parse_json
from ...messages import kind, nearest
from ...schema import Example, Role, Turn
from ..rows.row import Row

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "human": "user",  # ShareGPT
    "gpt": "assistant",
    "developer": "system",  # OpenAI
    "prompter": "user",  # OpenAssistant
    "model": "assistant",  # Gemma
}
"""Role by the name that published files have for it, in small letters."""

TOOL_ROLES = frozenset(["tool", "function", "function_call", "function_response", "observation", "ipython"])
"""Roles of tool calls and their results. Conversations that contain them are skipped."""

TOOL_KEYS = ("tool_calls", "function_call")
"""Keys of a message that calls tools."""

TRAINED_KEYS = ("weight", "train")
"""Keys with which OpenAI's and Axolotl's files mark answers: 0 or false for one that is read and not trained."""

MESSAGE_KEYS = {"messages": ("role", "content"), "sharegpt": ("from", "value")}
"""Keys of role and text in a message, by the form of the file."""

AS_JSON = "write messages as JSON, e.g. with Python's json.dumps"

_JSON_MESSAGES = re.compile(r'\s*\[\s*\{\s*"\w+"\s*:')


def looks_like_messages(value: object) -> bool:
    """Return whether a value is a list of objects, or a text that begins as the JSON of one.

    >>> [looks_like_messages(value) for value in ([{"role": "user"}], '[{"role": "user"}]', "[1] Hello", ["Hi"])]
    [True, True, False, False]
    """
    if isinstance(value, str):
        return bool(_JSON_MESSAGES.match(value))
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, Mapping) for each in value)


def messages_of(row: Row, column: str) -> list[Row]:
    """Return the messages of a conversation, which a column holds as a list of objects, as JSON, or as parallel lists.

    >>> row = Row({"chat": '[{"role": "user", "content": "Hello"}]'}, "chats.csv, line 2")
    >>> [message.fields for message in messages_of(row, "chat")]
    [{'role': 'user', 'content': 'Hello'}]

    Raises:
        ValueError: The column holds none of these.
    """
    value = row.value(column)
    if isinstance(value, str):
        value = parse_json(value, f"{row.location}, {column!r}", AS_JSON)
    if isinstance(value, Mapping):  # how `datasets` returns a Sequence of objects
        value = [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(message, Mapping) for message in value):
        raise row.error(f"{column!r} should be a list of messages, got {kind(value)}")
    return [Row(message, f"{row.location}, {column!r}[{place}]") for place, message in enumerate(value)]


def unreadable(messages: Sequence[Row], keys: tuple[str, str], roles: Mapping[str, Role]) -> str:
    """Return the reason why a conversation cannot be read as turns of text; empty if it can.

    >>> call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather"}}]}
    >>> unreadable([Row(call, "chats.jsonl, line 1")], ("role", "content"), ROLES)
    'a conversation with tools, whose calls and results are not rendered'

    Args:
        messages: Messages of the conversation.
        keys: Keys of role and text in a message.
        roles: Role by its name in the file.
    """
    for message in messages:
        role, content = (message.fields.get(key) for key in keys)
        named = isinstance(role, str) and role not in roles and role.lower() in TOOL_ROLES
        if named or any(message.fields.get(key) for key in TOOL_KEYS):
            return "a conversation with tools, whose calls and results are not rendered"
        if content is None and keys[1] in message.fields:
            return f"null in {keys[1]!r} of a message"
        if _is_parts(content) and not all(part.get("type") == "text" for part in content):
            return "a message with images or other parts that are not text"
    return ""


def turns_of(messages: Sequence[Row], keys: tuple[str, str], roles: Mapping[str, Role]) -> tuple[Turn, ...]:
    """Return the turns of a conversation, one for each message.

    Args:
        messages: Messages of the conversation.
        keys: Keys of role and text in a message.
        roles: Role by its name in the file.

    Raises:
        ValueError: A role is unknown, a message has no text, or a turn that is not an answer should be trained.
    """
    turns = []
    for message in messages:
        role = _role(message, keys[0], roles)
        turns.append(Turn(role, _content(message, keys[1]), _trained(message, role)))
    return tuple(turns)


def conversation(task: str, index: int, turns: Sequence[Turn], definition: str = "") -> Example:
    """Return the example of a conversation, whose target is the last assistant turn that is trained.

    Later turns are dropped. A conversation that chat templates cannot render, e.g. because user and assistant do not
    alternate, is skipped with the reason.

    Args:
        task: Name of the task.
        index: Index of the conversation in its file.
        turns: All turns of the conversation.
        definition: System turn to add to a conversation without one; empty for none.
    """
    last = max((place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.trained), default=-1)
    kept = tuple(turns[: last + 1])
    if kept and definition and kept[0].role != "system":
        kept = (Turn("system", definition), *kept)
    reason = _problem(turns, kept)
    if reason:
        return Example(task, f"{task}-{index}", index, "", (), skipped=reason)
    return Example(task, f"{task}-{index}", index, transcript(kept[:-1]), (kept[-1].content,), turns=kept)


def transcript(turns: Sequence[Turn]) -> str:
    """Return turns as text with the names of their roles, for models without a chat template.

    A single turn is returned as its own text.

    >>> transcript([Turn("user", "Hello"), Turn("assistant", "Hi"), Turn("user", "Who are you?")])
    'User: Hello\\nAssistant: Hi\\nUser: Who are you?'
    """
    if len(turns) == 1:
        return turns[0].content
    return "\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)


def _problem(turns: Sequence[Turn], kept: Sequence[Turn]) -> str:
    if not turns:
        return "an empty conversation"
    if not kept and any(turn.role == "assistant" for turn in turns):
        return "a conversation whose answers all have weight 0 or train false"
    if not kept:
        return "a conversation without an assistant turn"
    spoken = [turn.role for turn in (kept[1:] if kept[0].role == "system" else kept)]
    if "system" in spoken:
        return "a conversation with a system turn behind its first turn"
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        return "a conversation whose user and assistant turns do not alternate"
    if not all(turn.content.strip() for turn in kept if turn.role == "assistant"):
        return "a conversation with an empty assistant turn"
    return ""


def _role(message: Row, key: str, roles: Mapping[str, Role]) -> Role:
    name = message.text(key)
    if (role := roles.get(name) or roles.get(name.lower())) is None:
        raise message.error(
            f"unknown role {name!r}; {nearest(name, roles)}; roles are {', '.join(roles)}; map it to one of "
            f"{', '.join(get_args(Role))}, e.g. `roles: {{{name}: user}}`"
        )
    return role


def _trained(message: Row, role: Role) -> bool:
    """Return whether a message is trained, if it is an assistant's: no field of TRAINED_KEYS is 0 or false."""
    marks = {key: message.fields[key] for key in TRAINED_KEYS if message.fields.get(key) is not None}
    for key, mark in marks.items():
        if mark not in (0, 1):
            raise message.error(f"{key!r} should be 1, for an answer that is trained, or 0, got {kind(mark)}")
        if key == "train" and mark and role != "assistant":
            raise message.error(f"'train' is true in a turn of the {role}, and only answers are trained: leave it out")
    return all(marks.values())


def _content(message: Row, key: str) -> str:
    value = message.value(key)
    if _is_parts(value):
        return "".join(Row(part, message.location).text("text") for part in value)
    return message.text(key)


def _is_parts(content: object) -> TypeGuard[list[Mapping[str, Any]]]:
    """Return whether a content is a list of typed parts, e.g. ``[{"type": "text", "text": "Hello"}]``."""
    return isinstance(content, list) and all(isinstance(part, Mapping) and "type" in part for part in content)
