"""Serialization of structured knowledge to one line, as in UnifiedSKG: schemas, tables, triples and dialogue states.

::

    question ; structured knowledge: | database | table : column , column | ...
    last utterance ; structured knowledge: slot: value, value; ... ; context: utterance | utterance | ...

``structured_knowledge.py`` has the datasets and their prompts.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..messages import kind, nearest
from .rows.row import Row
from .rows.row_files import json_rows

EMPTY_STATE = "none"
"""Target of a dialogue state without a value."""


def sequence(struct: str, text: str = "", context: Sequence[str] = ()) -> str:
    """Return the input of UnifiedSKG's models in one line: question, structured knowledge, and earlier utterances.

    >>> sequence("a : b", "Who?", ["Hello.", "Hi."])
    'Who? ; structured knowledge: a : b ; context: Hello. | Hi.'

    Args:
        struct: Structured knowledge as one line.
        text: The question or the last utterance; empty for none.
        context: Earlier utterances, the latest first.
    """
    knowledge = f"structured knowledge: {struct.strip()}"
    parts = [text.strip(), knowledge] if text.strip() else [knowledge]
    return " ; ".join([*parts, f"context: {' | '.join(context)}"] if context else parts)


def constructed_sequence(struct: str, text: str) -> str:
    """Return the input of UnifiedSKG's models for a row that UnifiedSKG's own program wrote.

    >>> constructed_sequence("a : b", "Who? || Hello.")
    'Who? ; structured knowledge: a : b ; context: Hello.'

    Args:
        struct: Structured knowledge as one line.
        text: A question, or "last utterance || context" in conversations.
    """
    utterance, separator, context = text.partition(" || ")
    return sequence(struct, utterance, [context] if separator else [])


def serialized_schema(database: str, tables: Sequence[str], columns: Iterable[tuple[int, str]]) -> str:
    """Return a database schema in one line: the database, then each table with its columns.

    Names of tables and columns are in lower case, and the name of the database is not changed. The column "*" is left
    out.

    >>> serialized_schema("Shop", ["Cat"], [(-1, "*"), (0, "Name"), (0, "Age")])
    '| Shop | cat : name , age'

    Args:
        database: Name of the database.
        tables: Names of its tables.
        columns: (table index, column name) of each column; the index of the column "*" is -1.
    """
    columns = list(columns)
    described = [
        f"| {name.lower()} : {' , '.join(column.lower() for owner, column in columns if owner == place)}"
        for place, name in enumerate(tables)
    ]
    return " ".join([f"| {database}", *described])


def normalized_query(query: str) -> str:
    """Return an SQL query in lower case except for quoted text, with single spaces.

    >>> normalized_query('SELECT  Name , Age FROM cat WHERE name = "Tom"')
    'select name, age from cat where name = "Tom"'
    """
    quoted = re.split(r"""("[^"]*"|'[^']*')""", query)
    lowered = "".join(part if place % 2 else part.lower() for place, part in enumerate(quoted))
    return " ".join(lowered.split()).replace(" , ", ", ")


def spider_rows(questions: Path, tables: Path) -> Iterator[Row]:
    """Yield the questions of Spider, each with the schema of its database.

    Raises:
        ValueError: A question's database is not among the tables.
    """
    schemas = {row.text("db_id"): row for row in json_rows(tables)}
    for row in json_rows(questions):
        database = row.text("db_id")
        if database not in schemas:
            raise row.error(f"no database {database!r} in {tables}; {nearest(database, schemas)}")
        schema = schemas[database]
        names = {"tables": schema.value("table_names_original"), "columns": schema.value("column_names_original")}
        yield Row({**row.fields, **names}, row.location)


def linearized_cells(row: Row) -> str:
    """Return a table's highlighted cells with their headers in one line, tagged as in ToTTo's baselines.

    Raises:
        ValueError: A highlighted cell is outside its table.
    """
    table, cells = row.value("table"), row.value("highlighted_cells")
    text = "".join(
        f"<{tag}> {row.text(key)} </{tag}> "
        for tag, key in (("page_title", "table_page_title"), ("section_title", "table_section_title"))
        if row.text(key)
    )
    for r, c in cells:
        if not 0 <= r < len(table) or not 0 <= c < len(table[r]):
            raise row.error(f"the highlighted cell [{r}, {c}] is outside its table of {len(table)} rows")
    return f"{text}<table> {''.join(_cell(table, r, c) for r, c in cells)}</table>"


def _cell(table: Sequence[Sequence[Mapping[str, Any]]], r: int, c: int) -> str:
    start, end = _span(table[r], c)
    above = [
        cell["value"]
        for row in table[:r]
        for place, cell in enumerate(row)
        if cell["is_header"] and _span(row, place)[0] < end and _span(row, place)[1] > start
    ]
    left = [cell["value"] for cell in table[r][:c] if cell["is_header"]]
    heads = "".join(f"<col_header> {value} </col_header> " for value in above)
    heads += "".join(f"<row_header> {value} </row_header> " for value in left)
    return f"<cell> {table[r][c]['value']} {heads}</cell> "


def _span(row: Sequence[Mapping[str, Any]], place: int) -> tuple[int, int]:
    """Return the first column of a cell and the column behind its last; cells may span several columns."""
    start = sum(cell["column_span"] for cell in row[:place])
    return start, start + row[place]["column_span"]


def linearized_triples(triples: Sequence[Sequence[str]]) -> str:
    """Return triples (subject, relation, object) in one line, with relations in lower case.

    >>> linearized_triples([["Ann", "HAS_CAT", "Tom"], ["Tom", "COLOR", "red"]])
    'Ann : has_cat : Tom | Tom : color : red'
    """
    return " | ".join(f"{subject} : {relation.lower()} : {value}" for subject, relation, value in triples)


def multiwoz_state(row: Row) -> tuple[str, str, list[str], str]:
    """Return the parts of a MultiWOZ example, in lower case, from a row of UnifiedSKG's copy of the dataset.

    Returns:
        The slots with their possible values, the last user utterance, the earlier utterances, the latest first, and the
        dialogue state, which is the target.

    Raises:
        ValueError: The turns of user and system do not alternate, or a slot has no list of values.
    """
    users, systems = row.child("dialog").texts("usr"), row.child("dialog").texts("sys")
    if not users or len(users) != len(systems):
        raise row.error(f"expected as many turns of the system as of the user, got {len(systems)} and {len(users)}")
    slots, values = row.texts("ontology_slots"), row.value("ontology_values")
    if len(slots) != len(values):
        raise row.error(f"expected a list of values for each slot, got {len(values)} for {len(slots)}")
    listed = Row(dict(zip(slots, values, strict=True)), row.location)
    ontology = "; ".join(f"{slot}: {', '.join(listed.texts(slot)) or EMPTY_STATE}" for slot in slots)
    earlier = list(zip(reversed(users[:-1]), reversed(systems[:-1]), strict=True))
    context = [systems[-1], *(utterance for pair in earlier for utterance in pair)]
    state = ", ".join(f"{slot}-{value}".replace("-", " ") for slot, value in _beliefs(row, "expanded_turn_belief"))
    context = [utterance.lower() for utterance in context if utterance.strip()]
    return ontology.lower(), users[-1].lower(), context, state.lower()


def _beliefs(row: Row, key: str) -> list[tuple[str, str]]:
    """Return (slot, value) pairs of a field: a list of pairs, or on the hub a list of slots and one of values."""
    if not isinstance(row.value(key), Mapping):
        return [(belief.text("slot"), belief.text("value")) for belief in row.children(key)]
    belief = row.child(key)
    slots, values = belief.texts("slot"), belief.texts("value")
    if len(slots) != len(values):
        raise belief.error(f"expected a value for each slot, got {len(values)} for {len(slots)}")
    return list(zip(slots, values, strict=True))


def dialogue_rows(folder: Path) -> Iterator[Row]:
    """Yield the dialogues in a folder of the schema-guided dialogue dataset, each with its services' schemas.

    Raises:
        ValueError: The folder holds no dialogues, or a dialogue's service has no schema.
    """
    services = {row.text("service_name"): row.fields for row in json_rows(folder / "schema.json")}
    paths = sorted(folder.glob("dialogues_*.json"))
    if not paths:
        raise ValueError(f"no dialogues_*.json in {folder}")
    for path in paths:
        for row in json_rows(path):
            if missing := [name for name in row.texts("services") if name not in services]:
                raise row.error(
                    f"no service {missing[0]!r} in {folder / 'schema.json'}; {nearest(missing[0], services)}"
                )
            yield Row({**row.fields, "schemas": {name: services[name] for name in row.texts("services")}}, row.location)


def described_slots(schema: Row) -> str:
    """Return a service's slots in one line, with their descriptions and possible values."""
    return "; ".join(
        f"{slot.text('name')} ({slot.text('description')}): {', '.join(slot.texts('possible_values')) or 'any'}"
        for slot in schema.children("slots")
    )


def state_text(values: Row) -> str:
    """Return a dialogue state in one line, with the first value of each slot.

    >>> state_text(Row({"city": ["San Jose"], "price_range": ["cheap", "low"]}, "")), state_text(Row({}, ""))
    ('city: San Jose, price_range: cheap', 'none')
    """
    first = [(slot, texts[0]) for slot in values.fields if (texts := values.texts(slot))]
    return ", ".join(f"{slot}: {text}" for slot, text in first) or EMPTY_STATE


def acts_text(actions: Sequence[Row]) -> str:
    """Return dialogue acts in one line.

    >>> request = Row({"act": "REQUEST", "slot": "cuisine", "values": ["Thai", "Greek"]}, "")
    >>> acts_text([request, Row({"act": "GOODBYE", "slot": ""}, "")])
    'REQUEST cuisine: Thai, Greek | GOODBYE'
    """
    lines = []
    for action in actions:
        values = ", ".join(action.texts("values", ()))
        lines.append(f"{action.text('act')} {action.text('slot', '')}".strip() + (f": {values}" if values else ""))
    return " | ".join(lines)


def checked_turns(row: Row) -> list[Row]:
    """Return the turns of a dialogue, in order.

    Raises:
        ValueError: There are no turns.
    """
    turns = row.value("turns")
    if not isinstance(turns, list) or not turns:
        raise row.error(f"'turns' should be a list of turns, got {kind(turns)}")
    return [Row(turn, f"{row.location}, turn {place}") for place, turn in enumerate(turns)]
