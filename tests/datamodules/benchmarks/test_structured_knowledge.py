import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks.structured_knowledge import StructuredKnowledge
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.schema import Example

SCHEMA: dict[str, Any] = {
    "db_id": "shop",
    "table_names_original": ["Cat", "Food"],
    "column_names_original": [[-1, "*"], [0, "ID"], [0, "Name"], [1, "Price"]],
}
QUESTION = {"db_id": "shop", "question": "Who is Tom?", "query": 'SELECT Name , ID FROM Cat  WHERE Name = "Tom"'}
SPIDER = "Who is Tom? ; structured knowledge: | shop | cat : id , name | food : price\nSQL query:"


def cell(value: str, header: bool = False, span: int = 1) -> dict[str, Any]:
    return {"value": value, "is_header": header, "column_span": span, "row_span": 1}


TABLE = {
    "table": [
        [cell("Year", True), cell("Medals", True, span=2), cell("Host", True)],
        [cell("1900", True), cell("gold"), cell("silver"), cell("Paris")],
    ],
    "table_page_title": "Games",
    "table_section_title": "",
    "highlighted_cells": [[1, 2], [1, 3]],
    "sentence_annotations": [{"final_sentence": "Silver in 1900."}, {"final_sentence": "It was silver."}],
}
TOTTO = (
    "structured knowledge: <page_title> Games </page_title> <table> <cell> silver <col_header> Medals </col_header> "
    "<row_header> 1900 </row_header> </cell> <cell> Paris <col_header> Host </col_header> "
    "<row_header> 1900 </row_header> </cell> </table>\ntextual description:"
)

SERVICE = {
    "service_name": "Food",
    "slots": [
        {"name": "city", "description": "where", "possible_values": []},
        {"name": "price", "description": "how dear", "possible_values": ["low", "high"]},
    ],
}
SLOTS = "city (where): any; price (how dear): low, high"


def user(utterance: str, **state: list[str]) -> dict[str, Any]:
    frame = {"service": "Food", "actions": [], "state": {"slot_values": state}}
    return {"speaker": "USER", "utterance": utterance, "frames": [frame]}


def system(utterance: str, *actions: dict[str, Any]) -> dict[str, Any]:
    return {"speaker": "SYSTEM", "utterance": utterance, "frames": [{"service": "Food", "actions": list(actions)}]}


DIALOGUE: dict[str, Any] = {
    "dialogue_id": "1",
    "services": ["Food"],
    "turns": [
        user("I am hungry."),
        system("Where?", {"act": "REQUEST", "slot": "city", "values": []}),
        user("In Rome.", city=["Rome", "Roma"]),
        system("Try Mario.", {"act": "OFFER", "slot": "name", "values": ["Mario"]}, {"act": "GOODBYE", "slot": ""}),
    ],
}


def write_json(folder: Path, name: str, record: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def read(folder: Path, name: str, *records: object) -> list[Example]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return list(StructuredKnowledge(sources={name: str(path)}).examples(name))


def test_spider_shows_the_schema_of_the_question_s_database(tmp_path: Path) -> None:
    write_json(tmp_path, "spider/dev.json", [QUESTION])
    write_json(tmp_path, "spider/tables.json", [SCHEMA, SCHEMA | {"db_id": "other"}])
    reader = StructuredKnowledge(str(tmp_path), split="validation")
    assert reader.task_names("validation") == ["spider"]
    (example,) = reader.examples("spider")
    assert (example.input, example.targets) == (SPIDER, ('select name, id from cat where name = "Tom"',))
    prompt = OptImlPrompt()(reader.task("spider"), example, rendering_rng(0, "spider", example.id))
    assert prompt.source == SPIDER  # it ends with a colon, so that no delimiter follows
    before = reader.fingerprint("spider")
    write_json(tmp_path, "spider/tables.json", [SCHEMA | {"table_names_original": ["Cats", "Food"]}])
    assert reader.fingerprint("spider") != before


def test_rows_of_the_hub_read_as_the_files_do(tmp_path: Path) -> None:
    columns = {"table_id": [-1, 0, 0, 1], "column_name": ["*", "ID", "Name", "Price"]}
    hub = QUESTION | {"db_table_names": ["Cat", "Food"], "db_column_names": columns}
    assert read(tmp_path, "spider", hub)[0].input == SPIDER
    triples = [["Ann", "HAS_CAT", "Tom"]]
    expected = ("structured knowledge: Ann : has_cat : Tom\ntextual description:", ("Ann has Tom.", "Tom is Ann's."))
    texts = ["Ann has Tom.", "Tom is Ann's."]
    for annotations in ({"text": texts, "source": ["a", "b"]}, [{"text": text, "source": "a"} for text in texts]):
        (example,) = read(tmp_path, "dart", {"tripleset": triples, "annotations": annotations})
        assert (example.input, example.targets) == expected


def test_totto_shows_highlighted_cells_with_their_headers(tmp_path: Path) -> None:
    (example,) = read(tmp_path, "totto", TABLE)
    assert (example.input, example.targets) == (TOTTO, ("Silver in 1900.", "It was silver."))
    assert read(tmp_path, "totto", TABLE | {"sentence_annotations": []})[0].skipped == "no sentence"


def test_multiwoz_reads_the_latest_turn_first(tmp_path: Path) -> None:
    record = {
        "dialog": {"usr": ["Hello.", "A cheap Hotel."], "sys": ["", "What kind?"]},
        "ontology_slots": ["hotel-area", "hotel-price"],
        "ontology_values": [[], ["cheap", "dear"]],
        "expanded_turn_belief": {"slot": ["hotel-price"], "value": ["cheap"]},
    }
    (example,) = read(tmp_path, "multiwoz", record)
    assert example.input == (
        "a cheap hotel. ; structured knowledge: hotel-area: none; hotel-price: cheap, dear ; "
        "context: what kind? | hello.\ndialogue state:"
    )
    assert example.targets == ("hotel price cheap",)
    assert read(tmp_path, "multiwoz", record | {"expanded_turn_belief": []})[0].targets == ("none",)


CONSTRUCTED = {
    "compwebq": ("Question Answering", "answer"),  # the line with the query is commented out in seq2seq_construction
    "mtop": ("Text to Code", "TOP representation"),
    "webqsp": ("Text to Code", "KG query"),
}


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_rows_of_upstreams_program_end_with_the_name_of_their_output(name: str, tmp_path: Path) -> None:
    category, field = CONSTRUCTED[name]
    row = {"text_in": "Which cat?", "struct_in": "Tom is a cat", "seq_out": "Tom"}
    (example,) = read(tmp_path, name, row)
    assert example.input == f"Which cat? ; structured knowledge: Tom is a cat\n{field}:"
    assert StructuredKnowledge(str(tmp_path)).task(name).category == category


def test_schema_guided_dialogue_is_two_tasks(tmp_path: Path) -> None:
    write_json(tmp_path, "sgd/train/schema.json", [SERVICE])
    write_json(tmp_path, "sgd/train/dialogues_001.json", [DIALOGUE])
    write_json(tmp_path, "sgd/train/dialogues_002.json", [DIALOGUE])
    reader = StructuredKnowledge(str(tmp_path))
    assert reader.task_names("train") == ["sgd_state", "sgd_response"]
    first, second, *_ = states = list(reader.examples("sgd_state"))
    assert len(states) == 4
    assert (first.input, first.targets) == (f"I am hungry. ; structured knowledge: {SLOTS}\ndialogue state:", ("none",))
    assert second.input == f"In Rome. ; structured knowledge: {SLOTS} ; context: Where? | I am hungry.\ndialogue state:"
    assert second.targets == ("city: Rome",)
    asked, offered, *_ = reader.examples("sgd_response")
    assert asked.input == "I am hungry. ; structured knowledge: REQUEST city\nresponse:"
    assert offered.input == (
        "In Rome. ; structured knowledge: OFFER name: Mario | GOODBYE ; context: Where? | I am hungry.\nresponse:"
    )
    assert offered.targets == ("Try Mario.",)
    assert reader.task("sgd_state").sources == reader.task("sgd_response").sources == ("sgd",)
    before = reader.fingerprint("sgd_state")
    write_json(tmp_path, "sgd/train/dialogues_002.json", [])
    assert reader.fingerprint("sgd_state") != before


def test_constructed_rows_of_every_task_are_read(tmp_path: Path) -> None:
    reader = StructuredKnowledge(str(tmp_path))
    row = {"text_in": "who?", "struct_in": "col : a row 1 : b", "seq_out": "b"}
    for name in reader.datasets():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps(row) + "\n")
    assert reader.task_names("train") == list(reader.datasets())
    assert len(reader.datasets()) == 21 + 2
    inputs = {name: next(iter(reader.examples(name))).input for name in reader.datasets()}
    assert inputs["wikitq"] == "who? ; structured knowledge: col : a row 1 : b\nanswer:"
    assert all(text.endswith(":") for text in inputs.values())
    said = row | {"text_in": "now || before | earlier", "references": ["b", "c"]}
    (example,) = read(tmp_path, "cosql", said)
    assert example.input.startswith("now ; structured knowledge: col : a row 1 : b ; context: before | earlier\n")
    assert example.targets == ("b", "c")


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        (
            "totto",
            TABLE | {"highlighted_cells": [[7, 0]]},
            "the highlighted cell [7, 0] is outside its table of 2 rows",
        ),
        ("totto", TABLE | {"sentence_annotations": [{}]}, "no 'final_sentence'"),
        ("dart", {"tripleset": [], "annotation": []}, "no 'annotations'; nearest: annotation"),
        ("wikitq", {"text_in": "a", "struct_in": "b"}, "no 'seq_out'"),
        ("sgd_state", {"schemas": {}, "turns": []}, "'turns' should be a list of turns, got list []"),
        ("sgd_state", {"schemas": {}, "turns": [{"speaker": "USER"}]}, "turn 0: no 'frames'"),
        ("dart", {"tripleset": [["a", "b"]], "annotations": []}, "should list triples of texts, got list ['a', 'b']"),
        ("dart", {"tripleset": [["a", 7, "c"]], "annotations": []}, "a value does not have this dataset's format"),
        ("dart", {"tripleset": [], "annotations": {"text": [7]}}, "'text' should be text or a list of texts, got list"),
        (
            "totto",
            TABLE | {"table": [[{}]], "highlighted_cells": [[0, 0]]},
            "not have this dataset's format: no 'column_",
        ),
    ],
)
def test_wrong_records_are_rejected(tmp_path: Path, name: str, record: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(tmp_path, name, record)
    assert str(error.value).startswith(f"unifiedskg, task {name}: {tmp_path}/rows.jsonl, line 1")


def test_files_that_belong_together_must_match(tmp_path: Path) -> None:
    write_json(tmp_path, "spider/dev.json", [QUESTION | {"db_id": "shops"}])
    write_json(tmp_path, "spider/tables.json", [SCHEMA])
    with pytest.raises(ValueError, match=r"dev.json, record 0: no database 'shops' in .*tables.json; nearest: shop"):
        list(StructuredKnowledge(str(tmp_path), split="validation").examples("spider"))
    write_json(tmp_path, "sgd/train/schema.json", [SERVICE | {"service_name": "Foods"}])
    with pytest.raises(ValueError, match=r"no dialogues_\*.json in .*sgd/train"):
        list(StructuredKnowledge(str(tmp_path)).examples("sgd_state"))
    write_json(tmp_path, "sgd/train/dialogues_001.json", [DIALOGUE])
    with pytest.raises(ValueError, match=r"dialogues_001.json, record 0: no service 'Food' in .*nearest: Foods"):
        list(StructuredKnowledge(str(tmp_path)).examples("sgd_state"))


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_the_real_files_read_whole() -> None:
    found = {}
    for split in ("train", "validation", "test"):
        reader = StructuredKnowledge("$CROSSTASK_DATA", split=split)  # type: ignore[arg-type]
        for name in reader.task_names(split):  # type: ignore[arg-type]
            examples = list(reader.examples(name))
            assert not any(example.skipped for example in examples)
            found[split, name] = len(examples)
    assert found == {
        ("train", "totto"): 3,
        ("train", "sgd_state"): 330,
        ("train", "sgd_response"): 330,
        ("validation", "spider"): 400,
        ("validation", "totto"): 5,
        ("validation", "sgd_state"): 217,
        ("validation", "sgd_response"): 217,
        ("test", "sgd_state"): 194,
        ("test", "sgd_response"): 194,
    }
