"""Hub datasets as JSONL: conversions, interrupted transfers and errors, from a small hub on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_hub import COMMIT, FRESH, SmallHub, running
from warm_program import WarmProgram

from crosstask.datamodules.benchmarks import T5, CrossFit
from crosstask.datamodules.benchmarks.rows.row import Row
from crosstask.datamodules.downloads.hub_rows import part_records
from crosstask.datamodules.downloads.sources import HubPart, read_sources

ROWS = [{"input": f"Where is {n}?", "output": [{"answer": f"in {n}"}, {"answer": f"at {n}"}]} for n in range(50)]
COLUMNS = {"inputs": {"from": "input"}, "targets": {"from": "output.*.answer"}}


@pytest.fixture
def hub() -> Iterator[SmallHub]:
    small = SmallHub()
    small.add("kilt_tasks", ROWS, config="aidayago2")
    with running(small):
        yield small


def part(**changes: Any) -> dict[str, Any]:
    fields = {"name": "kilt", "licence": "MIT", "hub": "kilt_tasks", "config": "aidayago2", "columns": COLUMNS}
    return fields | {"to": "crossfit/kilt_ay2/train.jsonl"} | changes


def download(program: WarmProgram, hub: SmallHub, folder: Path, *parts: dict[str, Any]) -> str:
    """What the program prints, in a process of its own."""
    sources = folder / "sources.yaml"
    crossfit = {"title": "CrossFit", "use": "collection", "reader": "CrossFit", "parts": list(parts)}
    sources.write_text(yaml.safe_dump({"crossfit": crossfit}))
    words = ["download", "crossfit", "--to", str(folder / "data"), "--sources", str(sources)]
    done = program.run("-c", FRESH, *words, **hub.settings(folder / "cache"))
    return done.stdout + done.stderr


def test_rows_are_converted_placed_and_read(program: WarmProgram, hub: SmallHub, tmp_path: Path) -> None:
    printed = download(program, hub, tmp_path, part(rows=50))
    assert f"50 of 50 rows of hub dataset kilt_tasks, aidayago2, split train @ {COMMIT[:12]}" in printed
    (task,) = CrossFit(str(tmp_path / "data/crossfit")).task_names("train")
    example = next(iter(CrossFit(str(tmp_path / "data/crossfit")).examples(task)))
    assert (example.input.splitlines()[-1], example.targets) == ("Where is 0?", ("in 0", "at 0"))
    record = json.loads((tmp_path / "data/.downloads/crossfit/kilt.json").read_text())
    assert (record["revision"], record["rows"]) == (COMMIT, 50)


def test_a_broken_transfer_is_repeated_and_a_torn_file_places_nothing(
    program: WarmProgram, hub: SmallHub, tmp_path: Path
) -> None:
    hub.files["torn"] = {"aidayago2/train/0000.parquet": b"PAR1" + bytes(100_000)}
    hub.broken_after = 100
    torn = part(name="torn", hub="torn", to="crossfit/kilt_wow/train.jsonl")
    printed = download(program, hub, tmp_path, part(), torn)
    assert "50 of 50 rows" in printed
    assert "torn: failed" in printed
    assert len(hub.starts) == 3  # the library resumes in steps of 10 MB: a small file is transferred again
    assert not (tmp_path / "data/crossfit/kilt_wow").exists()


LACKING: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"hub": "kilt_task"}, "no such dataset on the hub, or it is private; if it was renamed, correct `hub`"),
    "gated": ({"hub": "gated"}, "accept the licence (MIT) there, log in with `hf auth login`"),
    "error": ({"hub": "faulty"}, "the hub answered with the error 500"),
    "revision": ({"revision": "v9"}, "no revision 'v9'"),
    "config": ({"config": "aida"}, "no such configuration and split; there are aidayago2/train"),
    "split": ({"split": "dev"}, "no such configuration and split; there are aidayago2/train"),
    "rows": ({"rows": 51}, "50 rows, and there were 51 when the table was written, so upstream has changed"),
    "columns": (
        {"columns": {"inputs": {"from": "inputs"}}},
        "nothing at inputs, from which 'inputs' is made; nearest: input; there are",
    ),
}
"""Parts that cannot be obtained by name, and what is printed of each."""


def test_what_the_hub_lacks_is_named(program: WarmProgram, hub: SmallHub, tmp_path: Path) -> None:
    for name, error in (("gated", "GatedRepo"), ("faulty", "500")):
        hub.files[name], hub.refused[name] = hub.files["kilt_tasks"], error
    parts = [part(name=name, to=f"crossfit/{name}/train.jsonl", **changes) for name, (changes, _) in LACKING.items()]
    printed = download(program, hub, tmp_path, *parts)
    for name, (_, message) in LACKING.items():
        (line,) = [line for line in printed.splitlines() if f"{name}: failed" in line]
        assert message in line
    assert "8 of 8 parts were not obtained" in printed
    assert "Fetching" not in printed  # no progress bars in a log, and no warning before an error that says the same
    assert "No files matched" not in printed
    assert not (tmp_path / "data/crossfit").exists()


def test_no_connection_is_named(program: WarmProgram, tmp_path: Path) -> None:
    printed = download(program, SmallHub(address="http://127.0.0.1:9"), tmp_path, part())
    assert "no connection to the hub" in printed
    assert "run the command again: what arrived is kept" in printed


def upstream_rows() -> dict[str, dict[str, Any]]:
    """One row of every dataset that the shipped table converts, with upstream's columns."""
    content: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "upstream_rows.yaml").read_text())
    return content


def shipped_conversions() -> list[HubPart]:
    parts = [part for collection in read_sources().values() for part in collection.parts]
    return [part for part in parts if isinstance(part, HubPart) and (part.columns or part.one_of)]


def test_every_shipped_conversion_reads_the_columns_of_its_dataset() -> None:
    rows = upstream_rows()
    made = {}
    for shipped in shipped_conversions():
        (record,) = part_records(shipped, [Row(rows[shipped.hub], shipped.hub)])
        made[shipped.name] = record
    assert made["kilt_ay2"] == {"inputs": "Who is [START_ENT] Ada [END_ENT]?", "targets": ["Ada Lovelace"]}
    assert made["ethos-disability"] == {"inputs": "A comment.", "targets": "false"}
    assert made["hate_speech_offensive"]["targets"] == "neither"
    assert made["aslg_pc12"] == {"inputs": "the cat sits", "targets": "CAT SIT"}
    assert CrossFit().task("aslg_pc12").definition.startswith("Translate the English sentence into glosses")
    assert made["crawl_domain"] == {"inputs": "healthcare", "targets": "Health Care"}
    assert made["empathetic_dialogues"] == {"inputs": "I lost, again. [SEP] sad", "targets": ["Oh no, why?"]}
    assert made["reddit_tifu-title"] == {"inputs": "summarize: I slept. Then I woke.", "targets": "by sleeping"}
    assert made["wmt16_enro_v003"] == {"inputs": "translate English to Romanian: A cat.", "targets": "O pisică."}
    assert made["cnn_dailymail_v002"] == {"inputs": "summarize: Long.", "targets": "Short."}
    sides = {
        "sentence 1: Good. [SEP] sentence 2: Bad.": "sentence 1",
        "sentence 1: Bad. [SEP] sentence 2: Good.": "sentence 2",
    }
    assert sides[made["blimp-ellipsis_n_bar_1"]["inputs"]] == made["blimp-ellipsis_n_bar_1"]["targets"]


def test_both_orders_of_a_pair_are_drawn() -> None:
    (blimp,) = [part for part in shipped_conversions() if part.name == "blimp-ellipsis_n_bar_1"]
    rows = [Row(upstream_rows()["blimp"], "blimp")] * 1000
    first = sum(record["targets"] == "sentence 1" for record in part_records(blimp, rows))
    assert 450 < first < 550


def test_evidence_without_an_answer_is_no_target() -> None:
    """KILT lists evidence among its outputs, as null or as empty text, in rows of lists or in lists of rows."""
    (fever,) = [part for part in shipped_conversions() if part.name == "kilt_fever"]
    listed = {"answer": ["SUPPORTS", ""], "provenance": [[], [{"title": "Ada"}]]}
    (record,) = part_records(fever, [Row({"input": "Ada wrote programs.", "output": listed}, "a")])
    assert record["targets"] == ["SUPPORTS"]


def test_torn_lines_are_left_out_and_equal_inputs_merged() -> None:
    (dialogues,) = [part for part in shipped_conversions() if part.name == "empathetic_dialogues"]
    row = upstream_rows()["empathetic_dialogues"]
    rows = [Row({**row, "utterance": text}, "a") for text in ("Yes.", "hit:12 torn", "No.")]
    assert list(part_records(dialogues, rows)) == [{"inputs": "I lost, again. [SEP] sad", "targets": ["Yes.", "No."]}]


def test_the_rows_of_a_large_dataset_are_a_random_part_in_their_order() -> None:
    wmt = HubPart(name="a", licence="", hub="wmt14", to="t5/a/train.jsonl", most=20)
    numbers = [record["number"] for record in part_records(wmt, [Row({"number": n}, "a") for n in range(1000)])]
    assert len(numbers) == 20
    assert numbers == sorted(numbers)
    assert numbers[0] < 300
    assert numbers[-1] > 700


def test_every_shipped_task_is_one_of_its_reader() -> None:
    sources = read_sources()
    for name, reader in (("crossfit", CrossFit), ("t5", T5)):
        targets = {Path(target).parent.name for part in sources[name].parts for target in part.targets}
        assert targets == set(reader().datasets())
