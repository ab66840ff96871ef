"""Structured knowledge as text: schemas, tables, triples and dialogue states in one line each, as in UnifiedSKG.

::

    question ; structured knowledge: | database | table : column , column | ...
    last utterance ; structured knowledge: slot: value, value; ... ; context: utterance | utterance | ...
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..messages import kind, nearest
from .row_files import Row, json_rows

NOTHING_KNOWN = "none"
"""The target of a dialogue state without a value."""


def sequence(struct: str, text: str = "", context: Sequence[str] = ()) -> str:
    """What a model reads: the question, what is known, and what was said before, the latest first.

    >>> sequence("a : b", "Who?", ["Hello.", "Hi."])
    'Who? ; structured knowledge: a : b ; context: Hello. | Hi.'
    """
    known = f"structured knowledge: {struct.strip()}"
    parts = [text.strip(), known] if text.strip() else [known]
    return " ; ".join([*parts, f"context: {' | '.join(context)}"] if context else parts)


def from_dump(struct: str, text: str) -> str:
    """The same of a row that UnifiedSKG constructed, whose text is "last utterance || context" in conversations."""
    asked, found, context = text.partition(" || ")
    return sequence(struct, asked, [context] if found else [])


def serialized_schema(database: str, tables: Sequence[str], columns: Iterable[tuple[int, str]]) -> str:
    """A database in one line; columns come with the place of their table, -1 for the column "*".

    >>> serialized_schema("Shop", ["Cat"], [(-1, "*"), (0, "Name"), (0, "Age")])
    '| Shop | cat : name , age'
    """
    listed = list(columns)
    described = [
        f"| {name.lower()} : {' , '.join(column.lower() for owner, column in listed if owner == place)}"
        for place, name in enumerate(tables)
    ]
    return " ".join([f"| {database}", *described])


def normalized_query(query: str) -> str:
    """SQL in small letters but for what is quoted, with single spaces.

    >>> normalized_query('SELECT  Name , Age FROM cat WHERE name = "Tom"')
    'select name, age from cat where name = "Tom"'
    """
    quoted = re.split(r"""("[^"]*"|'[^']*')""", query)
    lowered = "".join(part if place % 2 else part.lower() for place, part in enumerate(quoted))
    return " ".join(lowered.split()).replace(" , ", ", ")


def spider_rows(questions: Path, tables: Path) -> Iterator[Row]:
    """Questions, each with the schema of its database."""
    schemas = {row.text("db_id"): row for row in json_rows(tables)}
    for row in json_rows(questions):
        database = row.text("db_id")
        if database not in schemas:
            raise row.error(f"no database {database!r} in {tables}; {nearest(database, schemas)}")
        schema = schemas[database]
        known = {"tables": schema.value("table_names_original"), "columns": schema.value("column_names_original")}
        yield Row({**row.fields, **known}, row.place)


def linearized_cells(row: Row) -> str:
    """A table's highlighted cells with their headers, in the tags of ToTTo's baselines."""
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
    """First and last column of a cell, since cells may be several columns wide."""
    start = sum(cell["column_span"] for cell in row[:place])
    return start, start + row[place]["column_span"]


def linearized_triples(triples: Sequence[Sequence[str]]) -> str:
    """
    >>> linearized_triples([["Ann", "HAS_CAT", "Tom"], ["Tom", "COLOR", "red"]])
    'Ann : has_cat : Tom | Tom : color : red'
    """
    return " | ".join(f"{subject} : {relation.lower()} : {value}" for subject, relation, value in triples)


def multiwoz_state(row: Row) -> tuple[str, str, list[str], str]:
    """What is known, the last utterance, the context, and the state of a row of UnifiedSKG's MultiWOZ."""
    users, systems = row.value("dialog")["usr"], row.value("dialog")["sys"]
    if not users or len(users) != len(systems):
        raise row.error(f"expected as many turns of the system as of the user, got {len(systems)} and {len(users)}")
    known = "; ".join(
        f"{slot}: {', '.join(values) or NOTHING_KNOWN}"
        for slot, values in zip(row.value("ontology_slots"), row.value("ontology_values"), strict=True)
    )
    earlier = list(zip(reversed(users[:-1]), reversed(systems[:-1]), strict=True))
    context = [systems[-1], *(utterance for pair in earlier for utterance in pair)]
    belief = row.value("expanded_turn_belief")
    pairs = (
        zip(belief["slot"], belief["value"], strict=True)
        if isinstance(belief, Mapping)
        else ((item["slot"], item["value"]) for item in belief)
    )
    state = ", ".join(f"{slot}-{value}".replace("-", " ") for slot, value in pairs)
    return known.lower(), users[-1].lower(), [said.lower() for said in context if said.strip()], state.lower()


def dialogue_rows(folder: Path) -> Iterator[Row]:
    """The dialogues of a folder of the schema-guided dialogue dataset, each with the schemas of its services."""
    services = {row.text("service_name"): row.fields for row in json_rows(folder / "schema.json")}
    paths = sorted(folder.glob("dialogues_*.json"))
    if not paths:
        raise ValueError(f"no dialogues_*.json in {folder}")
    for path in paths:
        for row in json_rows(path):
            if missing := [name for name in row.value("services") if name not in services]:
                raise row.error(
                    f"no service {missing[0]!r} in {folder / 'schema.json'}; {nearest(missing[0], services)}"
                )
            yield Row({**row.fields, "schemas": {name: services[name] for name in row.value("services")}}, row.place)


def described_slots(schema: Mapping[str, Any]) -> str:
    """A service's slots, what they mean, and the values they may have."""
    return "; ".join(
        f"{slot['name']} ({slot['description']}): {', '.join(slot['possible_values']) or 'any'}"
        for slot in schema["slots"]
    )


def state_text(values: Mapping[str, Sequence[str]]) -> str:
    """
    >>> state_text({"city": ["San Jose"], "price_range": ["cheap", "low"]}), state_text({})
    ('city: San Jose, price_range: cheap', 'none')
    """
    return ", ".join(f"{slot}: {heard[0]}" for slot, heard in values.items() if heard) or NOTHING_KNOWN


def acts_text(actions: Sequence[Mapping[str, Any]]) -> str:
    """
    >>> acts_text([{"act": "REQUEST", "slot": "cuisine", "values": ["Thai", "Greek"]}, {"act": "GOODBYE", "slot": ""}])
    'REQUEST cuisine: Thai, Greek | GOODBYE'
    """
    told = []
    for action in actions:
        values = ", ".join(action.get("values", ()))
        told.append(f"{action['act']} {action.get('slot', '')}".strip() + (f": {values}" if values else ""))
    return " | ".join(told)


def checked_turns(row: Row) -> list[Row]:
    """The turns of a dialogue, in order; an empty dialogue is refused."""
    turns = row.value("turns")
    if not isinstance(turns, list) or not turns:
        raise row.error(f"'turns' should be a list of turns, got {kind(turns)}")
    return [Row(turn, f"{row.place}, turn {place}") for place, turn in enumerate(turns)]
