"""UnifiedSKG (arXiv 2201.05966): questions about databases, tables, triples and dialogues, in one line of text each.

::

    folder/spider/dev.json + tables.json, folder/totto/train_sample.jsonl, folder/sgd/train/     datasets' own files
    folder/wikitq/train.jsonl       {"text_in": ..., "struct_in": ..., "seq_out": ...}, as UnifiedSKG constructs them

A prompt is what UnifiedSKG's models read (utils/dataset.py), and on a new line the name of what is to be written,
"SQL query:" or "textual description:", with which OPT-IML's prompts of this benchmark end. Schema-guided dialogue is
read in the same words, as two tasks: the state after each turn of the user, and the system's words for its acts.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import structured_rows as of
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Rendered
from .row_files import Row, file_rows

Renderer = Callable[[Row], Iterable[Rendered]]


class StructuredKnowledge(Catalogue):
    """Reads UnifiedSKG's tasks and schema-guided dialogue; see ``Catalogue`` for the arguments."""

    name = "unifiedskg"

    def datasets(self) -> Mapping[str, Dataset]:
        return DATASETS


def constructed(field: str) -> Renderer:
    """Renders rows that UnifiedSKG constructed."""

    def render(row: Row) -> Iterable[Rendered]:
        references = row.texts("references", default=()) or (row.text("seq_out"),)
        yield Rendered(f"{of.from_dump(row.text('struct_in'), row.text('text_in'))}\n{field}:", references)

    return render


def spider(row: Row) -> Iterable[Rendered]:
    schema = of.serialized_schema(row.text("db_id"), row.value("tables"), row.value("columns"))
    yield Rendered(
        f"{of.sequence(schema, row.text('question'))}\nSQL query:", (of.normalized_query(row.text("query")),)
    )


def spider_of_hub(row: Row) -> Iterable[Rendered]:
    columns = row.value("db_column_names")
    named = {
        "tables": row.value("db_table_names"),
        "columns": list(zip(columns["table_id"], columns["column_name"], strict=True)),
    }
    yield from spider(Row({**row.fields, **named}, row.place))


def totto(row: Row) -> Iterable[Rendered]:
    sentences = [Row(given, row.place).text("final_sentence") for given in row.value("sentence_annotations")]
    text = f"{of.sequence(of.linearized_cells(row))}\ntextual description:"
    yield Rendered(text, tuple(dict.fromkeys(sentences)), skipped="" if sentences else "no sentence")


def dart(row: Row) -> Iterable[Rendered]:
    given = row.value("annotations")
    texts = given["text"] if isinstance(given, Mapping) else [Row(one, row.place).text("text") for one in given]
    text = f"{of.sequence(of.linearized_triples(row.value('tripleset')))}\ntextual description:"
    yield Rendered(text, tuple(dict.fromkeys(texts)))


def multiwoz(row: Row) -> Iterable[Rendered]:
    known, said, context, state = of.multiwoz_state(row)
    yield Rendered(f"{of.sequence(known, said, context)}\ndialogue state:", (state or of.NOTHING_KNOWN,))


def sgd_state(row: Row) -> Iterable[Rendered]:
    """An example each user's turn and service: the values of its slots so far."""
    said: list[str] = []
    for turn in of.checked_turns(row):
        if turn.text("speaker") == "USER":
            for frame in (Row(frame, turn.place) for frame in turn.value("frames")):
                known = of.described_slots(row.value("schemas")[frame.text("service")])
                text = of.sequence(known, turn.text("utterance"), said[::-1])
                yield Rendered(f"{text}\ndialogue state:", (of.state_text(frame.value("state")["slot_values"]),))
        said.append(turn.text("utterance"))


def sgd_response(row: Row) -> Iterable[Rendered]:
    """An example each of the system's turns: its acts put into words."""
    said: list[str] = []
    for turn in of.checked_turns(row):
        if turn.text("speaker") == "SYSTEM":
            acts = of.acts_text([action for frame in turn.value("frames") for action in frame["actions"]])
            text = of.sequence(acts, said[-1] if said else "", said[-2::-1])
            yield Rendered(f"{text}\nresponse:", (turn.text("utterance"),))
        said.append(turn.text("utterance"))


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
    """A row of the table below: its own files first, if it has a renderer, then those that UnifiedSKG constructs."""
    own = (Layout(tuple(columns.split()), render),) if render else ()
    ends: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}
    return Dataset(
        name=name,
        category=category,
        layouts=(*own, *more, Layout(("struct_in", "text_in", "seq_out"), constructed(field))),
        files={
            split: (*(files or {}).get(split, ()), Files((f"{name}/{end}.jsonl",), file_rows))
            for split, end in ends.items()
        },
        **fields,
    )


def _spider(name: str) -> tuple[Files, ...]:
    return (Files((f"spider/{name}.json", "spider/tables.json"), of.spider_rows),)


def _totto(name: str) -> tuple[Files, ...]:
    return Files((f"totto/totto_{name}_data.jsonl",)), Files((f"totto/{name}_sample.jsonl",))


SGD: Mapping[Split, tuple[Files, ...]] = {
    "train": (Files(("sgd/train",), of.dialogue_rows),),
    "validation": (Files(("sgd/dev",), of.dialogue_rows),),
    "test": (Files(("sgd/test",), of.dialogue_rows),),
}

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
        _dataset("compwebq", "Text to Code", "KG query"),
        _dataset("mtop", "Text to Code", "API calls"),
        _dataset("wikitq", "Question Answering", "answer"),
        _dataset("hybridqa", "Question Answering", "answer"),
        _dataset("mmqa", "Question Answering", "answer"),
        _dataset("fetaqa", "Question Answering", "answer"),
        _dataset("sqa", "Question Answering", "answer"),
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
        _dataset("tab_fact", "Fact Verification", "verdict"),
        _dataset("feverous", "Fact Verification", "verdict"),
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
