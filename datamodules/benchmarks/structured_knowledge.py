"""Benchmark reader of UnifiedSKG (arXiv 2201.05966): questions on databases, tables, triples and dialogues, as text.

::

    folder/spider/dev.json + tables.json, folder/totto/train_sample.jsonl, folder/sgd/train/     original files
    folder/wikitq/train.jsonl       {"text_in": ..., "struct_in": ..., "seq_out": ...}, written by UnifiedSKG's program

A prompt is the input of UnifiedSKG's models (utils/dataset.py) and, on a new line, the name of the output: "SQL query:"
or "textual description:", as in OPT-IML's prompts of this benchmark. Schema-guided dialogue is serialized in the same
way, as two tasks: the state after each user turn, and the system's utterance for its dialogue acts.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..messages import kind
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, RenderedExample, Renderer
from .rows.row import Row
from .rows.row_files import file_rows
from .structured_rows import (
    EMPTY_STATE,
    acts_text,
    checked_turns,
    constructed_sequence,
    described_slots,
    dialogue_rows,
    linearized_cells,
    linearized_triples,
    multiwoz_state,
    normalized_query,
    sequence,
    serialized_schema,
    spider_rows,
    state_text,
)


class StructuredKnowledge(Catalogue):
    """Reads UnifiedSKG's 21 tasks on tables, databases and dialogue states as text, and two on schema-guided dialogue.

    Args:
        folder: Folder with a folder for each dataset.
        sources: File or hub name of single datasets that are outside the folder, by dataset.
        split: Split of the datasets to read: ``train``, ``validation`` or ``test``.
    """

    name = "unifiedskg"
    version = 2

    def datasets(self) -> Mapping[str, Dataset]:
        """Return the 23 tasks."""
        return DATASETS


def constructed(field: str) -> Renderer:
    """Return a function that renders the rows that UnifiedSKG's own program writes, as examples.

    Args:
        field: Name of the output at the end of the prompt, e.g. "SQL query".
    """

    def render(row: Row) -> Iterable[RenderedExample]:
        references = row.texts("references", default=()) or (row.text("seq_out"),)
        yield RenderedExample(
            f"{constructed_sequence(row.text('struct_in'), row.text('text_in'))}\n{field}:", references
        )

    return render


def spider(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a Spider question with the schema of its database; its target is an SQL query."""
    schema = serialized_schema(row.text("db_id"), row.texts("tables"), row.value("columns"))
    yield RenderedExample(
        f"{sequence(schema, row.text('question'))}\nSQL query:", (normalized_query(row.text("query")),)
    )


def spider_of_hub(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a Spider row on the hub, where the schema is part of the row.

    Raises:
        ValueError: There are not as many tables as columns.
    """
    columns = row.child("db_column_names")
    owners, names = columns.value("table_id"), columns.texts("column_name")
    if len(owners) != len(names):
        raise columns.error(f"expected a table for each column, got {len(owners)} for {len(names)}")
    schema = {"tables": row.value("db_table_names"), "columns": list(zip(owners, names, strict=True))}
    yield from spider(Row({**row.fields, **schema}, row.location))


def totto(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a ToTTo row: highlighted cells of a table, with descriptions as references."""
    sentences = [annotation.text("final_sentence") for annotation in row.children("sentence_annotations")]
    text = f"{sequence(linearized_cells(row))}\ntextual description:"
    yield RenderedExample(text, tuple(dict.fromkeys(sentences)), skipped="" if sentences else "no sentence")


def dart(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a DART row: triples, with descriptions as references.

    Raises:
        ValueError: A triple is not three texts.
    """
    of_hub = isinstance(row.value("annotations"), Mapping)
    texts = (
        row.child("annotations").texts("text")
        if of_hub
        else [annotation.text("text") for annotation in row.children("annotations")]
    )
    triples = row.value("tripleset")
    if wrong := [triple for triple in triples if not isinstance(triple, list | tuple) or len(triple) != 3]:
        raise row.error(f"'tripleset' should list triples of texts, got {kind(wrong[0])}")
    yield RenderedExample(f"{sequence(linearized_triples(triples))}\ntextual description:", tuple(dict.fromkeys(texts)))


def multiwoz(row: Row) -> Iterable[RenderedExample]:
    """Yield the example of a MultiWOZ row; its target is the dialogue state after the last user turn."""
    ontology, utterance, context, state = multiwoz_state(row)
    yield RenderedExample(f"{sequence(ontology, utterance, context)}\ndialogue state:", (state or EMPTY_STATE,))


def sgd_state(row: Row) -> Iterable[RenderedExample]:
    """Yield an example for each user turn and service: the values of the service's slots so far."""
    history: list[str] = []
    for turn in checked_turns(row):
        if turn.text("speaker") == "USER":
            for frame in turn.children("frames"):
                slots = described_slots(row.child("schemas").child(frame.text("service")))
                text = sequence(slots, turn.text("utterance"), history[::-1])
                state = state_text(frame.child("state").child("slot_values"))
                yield RenderedExample(f"{text}\ndialogue state:", (state,))
        history.append(turn.text("utterance"))


def sgd_response(row: Row) -> Iterable[RenderedExample]:
    """Yield an example for each system turn: the utterance for the turn's dialogue acts."""
    history: list[str] = []
    for turn in checked_turns(row):
        if turn.text("speaker") == "SYSTEM":
            acts = acts_text([action for frame in turn.children("frames") for action in frame.children("actions")])
            text = sequence(acts, history[-1] if history else "", history[-2::-1])
            yield RenderedExample(f"{text}\nresponse:", (turn.text("utterance"),))
        history.append(turn.text("utterance"))


def _dataset(
    name: str,
    category: str,
    field: str,
    columns: str = "",
    render: Renderer | None = None,
    files: Mapping[Split, tuple[Files, ...]] | None = None,
    *,
    more: tuple[Layout, ...] = (),
    **fields: Any,
) -> Dataset:
    """Return one dataset of the table below: its original files, if it has a renderer, or UnifiedSKG's program's."""
    original = (Layout(tuple(columns.split()), render),) if render else ()
    ends: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}
    return Dataset(
        name=name,
        category=category,
        layouts=(*original, *more, Layout(("struct_in", "text_in", "seq_out"), constructed(field))),
        files={
            split: (*(files or {}).get(split, ()), Files((f"{name}/{end}.jsonl",), file_rows))
            for split, end in ends.items()
        },
        **fields,
    )


def _spider(name: str) -> tuple[Files, ...]:
    return (Files((f"spider/{name}.json", "spider/tables.json"), spider_rows),)


def _totto(name: str) -> tuple[Files, ...]:
    return Files((f"totto/totto_{name}_data.jsonl",)), Files((f"totto/{name}_sample.jsonl",))


SGD: Mapping[Split, tuple[Files, ...]] = {
    "train": (Files(("sgd/train",), dialogue_rows),),
    "validation": (Files(("sgd/dev",), dialogue_rows),),
    "test": (Files(("sgd/test",), dialogue_rows),),
}

ANSWERS: Mapping[str, Any] = {"metric": "exact_match", "match": "unifiedskg"}
"""Metric of tasks whose answers UnifiedSKG compares as sets, numbers by value (metrics/unified/evaluator.py)."""

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        _dataset(
            "spider",
            "Text to Code",
            "SQL query",
            "db_id question query tables columns",
            spider,
            {"train": _spider("train_spider"), "validation": _spider("dev")},
            more=(Layout(("db_id", "question", "query", "db_table_names", "db_column_names"), spider_of_hub),),
            licence="CC BY-SA 4.0",
        ),
        _dataset("sparc", "Text to Code", "SQL query"),
        _dataset("cosql", "Text to Code", "SQL query"),
        _dataset("wikisql", "Text to Code", "SQL query"),
        _dataset("grailqa", "Text to Code", "KG query"),
        _dataset("webqsp", "Text to Code", "KG query"),
        _dataset("mtop", "Text to Code", "TOP representation"),
        _dataset("compwebq", "Question Answering", "answer", **ANSWERS),  # UnifiedSKG's program writes no query
        _dataset("wikitq", "Question Answering", "answer", **ANSWERS),
        _dataset("hybridqa", "Question Answering", "answer", metric="exact_match", match="squad"),
        _dataset("mmqa", "Question Answering", "answer"),
        _dataset("fetaqa", "Question Answering", "answer"),
        _dataset("sqa", "Question Answering", "answer", **ANSWERS),
        _dataset(
            "totto",
            "Data to Text",
            "textual description",
            "table highlighted_cells sentence_annotations",
            totto,
            {"train": _totto("train"), "validation": _totto("dev")},
            licence="CC BY-SA 3.0",
        ),
        _dataset("dart", "Data to Text", "textual description", "tripleset annotations", dart, licence="MIT"),
        _dataset("logic2text", "Code to Text", "textual description"),
        _dataset("sql2text", "Code to Text", "textual description"),
        _dataset(
            "multiwoz",
            "Dialogue State Tracking",
            "dialogue state",
            "dialog ontology_slots ontology_values expanded_turn_belief",
            multiwoz,
        ),
        _dataset("kvret", "Dialogue Generation", "response"),
        _dataset("tab_fact", "Fact Verification", "verdict", metric="exact_match"),
        _dataset("feverous", "Fact Verification", "verdict", metric="exact_match"),
        _dataset(
            "sgd_state",
            "Dialogue State Tracking",
            "dialogue state",
            "turns schemas",
            sgd_state,
            SGD,
            sources=("sgd",),
            licence="CC BY-SA 4.0",
        ),
        _dataset(
            "sgd_response",
            "Dialogue Generation",
            "response",
            "turns schemas",
            sgd_response,
            SGD,
            sources=("sgd",),
            licence="CC BY-SA 4.0",
        ),
    )
}
"""UnifiedSKG's 21 tasks and the two of schema-guided dialogue."""
