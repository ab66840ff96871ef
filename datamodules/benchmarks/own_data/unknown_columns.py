"""Advice for rows whose columns fit no known form: a column mapping that would read them, or why none can."""

from collections.abc import Iterable, Mapping, Sequence

from ..rows.row import Row
from .conversations import ROLES, looks_like_messages, messages_of

QUESTIONS = "question query prompt instruction input text sentence article document source user".split()
ANSWERS = "answer response completion output target label summary translation reply assistant chosen".split()
"""Names of answer columns in published files, the most likely first."""


def mapping_hint(first: Row) -> str:
    """Return advice for an error about unknown columns: the mapping that probably reads the rows.

    >>> mapping_hint(Row({"id": "7", "question": "Hello", "answer": "Hi"}, "qa.csv, line 2"))
    "name the input's and the output's, e.g. `columns: {input: question, output: answer}`"
    >>> mapping_hint(Row({"conversation": [{"role": "user", "content": "Hello"}]}, "chats.jsonl, line 1"))
    'name the column of the conversations: `columns: {messages: conversation}`'
    >>> mapping_hint(Row({"What is 1 + 1?": "What is 2 + 2?", "2": "4"}, "sums.csv, line 2"))
    'a table begins with a line of column names, e.g. input and output: add one'
    >>> mapping_hint(Row({"instruction": "Rhyme.", "context": "cat", "response": "hat"}, "dolly.jsonl, line 1"))
    "name the input's and the output's, e.g. `columns: {instruction: instruction, input: context, output: response}`"
    """
    names = [name for name in first.fields if name.strip()]
    if len(names) == 1 and isinstance(first.fields[names[0]], str):
        arguments = f"{{sources: {{mine: FILE}}, column: {names[0]}}}"
        return f"text without answers is read by `{{class_path: PretrainingText, init_args: {arguments}}}`"
    if chat := next((name for name in names if looks_like_messages(first.fields[name])), None):
        field = "conversations" if "from" in messages_of(first, chat)[0].fields else "messages"
        return f"name the column of the conversations: `columns: {_yaml({field: chat})}`"
    if any(name.strip().isdigit() for name in names):
        return "a table begins with a line of column names, e.g. input and output: add one"
    output = _first_of(ANSWERS, names) or (names[1] if len(names) > 1 else "answer")
    rest = [name for name in names if name != output]
    question = _first_of(QUESTIONS, rest) or next(iter(rest), "question")
    context = _first_of(["context", "input"], [name for name in rest if name != question])
    fields = {"input": question, "output": output}
    if question.lower() == "instruction" and context:
        fields = {"instruction": question, "input": context, "output": output}
    return f"name the input's and the output's, e.g. `columns: {_yaml(fields)}`"


def preference_problem(first: Row, columns: Iterable[str]) -> str:
    """Return why preference pairs are not read, with a mapping for the preferred answers; empty for other rows.

    >>> preference_problem(Row({"prompt": "Hello", "chosen": "Hi", "rejected": "No"}, "dpo.jsonl, line 1"), [])
    'chosen and rejected are a pair of answers, and no method here trains on pairs; `columns: {prompt: prompt, \
    completion: chosen}` trains on the preferred answers'

    Args:
        first: First row of a file.
        columns: Columns that the user maps.
    """
    if {"chosen", "rejected"} <= first.fields.keys() and not {"chosen", "rejected"} & set(columns):
        problem = "chosen and rejected are a pair of answers, and no method here trains on pairs; "
        fields = _preferred_fields(first)
        if not fields:
            return f"{problem}write the question as `prompt` and the preferred answer as `completion`"
        return f"{problem}`columns: {_yaml(fields)}` trains on the preferred answers"
    if {"prompt", "completion"} <= first.fields.keys() and isinstance(first.fields.get("label"), bool):
        return (
            "label is true for preferred and false for rejected answers, which would be trained, too; keep the rows "
            "with true, or train on all with `form: prompt_completion`"
        )
    return ""


def _preferred_fields(first: Row) -> Mapping[str, str]:
    """Return the mapping that reads the preferred answers; {} if none does."""
    chosen = first.fields["chosen"]
    if looks_like_messages(chosen):
        roles = {str(message.fields.get("role")).lower() for message in messages_of(first, "chosen")}
        if "user" in {ROLES.get(role) for role in roles}:
            return {"messages": "chosen"}
    elif not isinstance(chosen, str):
        return {}
    return {"prompt": "prompt", "completion": "chosen"} if "prompt" in first.fields else {}


def _first_of(known: Sequence[str], names: Sequence[str]) -> str:
    """Return the column with the most likely of the known names; empty if there is none."""
    lower = {name.strip().lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), "")


def _yaml(fields: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{field}: {column}" for field, column in fields.items()) + "}"
