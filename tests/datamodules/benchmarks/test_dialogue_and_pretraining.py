import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.benchmarks import dialogue, pretraining
from crosstask.datamodules.benchmarks.dialogue import NO_TURNS, Dialogue
from crosstask.datamodules.benchmarks.pretraining import NO_TEXT, PretrainingText
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.schema import Example, Prompt


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


TURNS = [{"text": "Hello!"}, {"text": "Good\nday. "}]
SAID = "Hello!\nGood day."

CONVAI2 = """1 your persona: i have a cat.
2 partner's persona: i have a dog.
3 Hello!\tGood day.\t\tno|maybe
1 your persona: i am tall.
2 Who are you?\tAnn.
"""

CASES: list[tuple[str, str, dict[str, str]]] = [
    (
        "wizard_of_internet",
        "train",
        {
            "wizard_of_internet/train.jsonl": lines(
                {
                    "12": {
                        "dialog_history": [
                            TURNS[0] | {"action": "Apprentice => Wizard"},
                            {"text": "greetings", "action": "Wizard => SearchAgent"},
                            TURNS[1] | {"action": "Wizard => Apprentice"},
                        ]
                    }
                }
            )
        },
    ),
    (
        "wizard_of_wikipedia",
        "validation",
        {"wizard_of_wikipedia/valid_random_split.json": json.dumps([{"chosen_topic": "x", "dialog": TURNS}])},
    ),
    (
        "blended_skill_talk",
        "test",
        {
            "blended_skill_talk/test.json": json.dumps(
                [{"free_turker_utterance": "Hello!", "guided_turker_utterance": "Good day.", "dialog": [[0, " "]]}]
            )
        },
    ),
    ("convai2", "train", {"convai2/train_both_original_no_cands.txt": CONVAI2}),
    (
        "multi_session_chat",
        "train",
        {
            f"msc/msc_dialogue/session_{number}/train.txt": lines({"dialog": TURNS, "previous_dialogs": []})
            for number in (2, 3, 4)
        },
    ),
    ("light", "train", {"light/light_data.json": json.dumps([{"speech": ["Hello!", "Good day."], "agents": []}])}),
    ("taskmaster4", "train", {"taskmaster4/data_00.json": json.dumps([{"utterances": TURNS, "vertical": "Coffee"}])}),
    (
        "sgd",
        "train",
        {
            "sgd/train/schema.json": json.dumps([{"service_name": "Food"}]),
            "sgd/train/dialogues_001.json": json.dumps(
                [{"services": ["Food"], "turns": [{"utterance": turn["text"]} for turn in TURNS]}]
            ),
        },
    ),
]


@pytest.mark.parametrize(("name", "split", "files"), CASES)
def test_turns_are_joined_by_one_newline_and_all_is_target(
    tmp_path: Path, name: str, split: Any, files: dict[str, str]
) -> None:
    for path, text in files.items():
        write(tmp_path, path, text)
    reader = Dialogue(str(tmp_path), split=split)
    assert reader.task_names(split) == [name]
    first, *_ = reader.examples(name)
    assert first == Example(name, f"{split}-0", 0, "", (SAID,))
    prompt = OptImlPrompt()(reader.task(name), first, rendering_rng(0, name, first.id))
    assert prompt == Prompt("", SAID)
    assert len(reader.fingerprint(name)) == 64


def test_every_dialogue_dataset_is_tried() -> None:
    assert {case[0] for case in CASES} == set(dialogue.DATASETS)


def test_a_numbered_file_holds_many_dialogues(tmp_path: Path) -> None:
    write(tmp_path, "convai2/train_both_original_no_cands.txt", CONVAI2)
    examples = list(Dialogue(str(tmp_path)).examples("convai2"))
    assert [example.targets for example in examples] == [(SAID,), ("Who are you?\nAnn.",)]
    path = write(tmp_path, "convai2/train_both_original_no_cands.txt", CONVAI2 + "Ann\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 6: expected a number and a turn, got str 'Ann'")):
        list(Dialogue(str(tmp_path)).examples("convai2"))


def read(folder: Path, name: str, record: object) -> list[Example]:
    path = write(folder, "rows.jsonl", lines(record))
    return list(Dialogue(sources={name: str(path)}).examples(name))


def test_rows_of_the_hub_and_of_ones_own_are_read(tmp_path: Path) -> None:
    hub = {"previous_utterance": ["Hello!"], "free_messages": ["Good day.", "b"], "guided_messages": ["a"]}
    assert read(tmp_path, "blended_skill_talk", hub)[0].targets == ("Hello!\nGood day.\na\nb",)
    assert read(tmp_path, "light", {"turns": ["Hello!", "Good day."]})[0].targets == (SAID,)
    assert read(tmp_path, "taskmaster4", {"utterances": [{"text": " "}]})[0].skipped == NO_TURNS


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("taskmaster4", {"utterance": []}, "no 'utterances'; nearest: utterance"),
        ("taskmaster4", {"utterances": "Hello!"}, "'utterances' should be a list of turns, got str 'Hello!'"),
        ("taskmaster4", {"utterances": ["Hello!"]}, "turn 0 should be an object, got str 'Hello!'"),
        ("taskmaster4", {"utterances": [{"texts": "a"}]}, "turn 0: no 'text'; nearest: texts"),
        (
            "blended_skill_talk",
            {"previous_utterance": [], "free_messages": [], "guided_messages": ["a"]},
            "expected alternating messages, got 0 free and 1 guided ones",
        ),
    ],
)
def test_wrong_dialogues_are_rejected(tmp_path: Path, name: str, record: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"dialogue, task {name}: {tmp_path}/rows.jsonl, line 1")) as error:
        read(tmp_path, name, record)
    assert message in str(error.value)


def test_documents_are_targets_whole(tmp_path: Path) -> None:
    import datasets

    book = write(tmp_path, "books/a.txt", "A long\n\nbook.\n")
    write(tmp_path, "books/more/b.jsonl", lines({"text": "Another."}, {"text": " "}))
    datasets.Dataset.from_list([{"text": "Saved."}]).save_to_disk(str(tmp_path / "saved"))
    datasets.Dataset.from_list([{"body": "Stored."}]).to_parquet(tmp_path / "b.parquet")
    reader = PretrainingText({"books": str(tmp_path / "books"), "one": str(book), "saved": str(tmp_path / "saved")})
    assert (reader.task_names("train"), reader.task_names("test")) == (["books", "one", "saved"], [])
    assert list(reader.examples("books")) == [
        Example("books", "0", 0, "", ("A long\n\nbook.\n",)),
        Example("books", "1", 1, "", ("Another.",)),
        Example("books", "2", 2, "", (), skipped=NO_TEXT),
    ]
    assert [example.targets for name in ("one", "saved") for example in reader.examples(name)] == [
        ("A long\n\nbook.\n",),
        ("Saved.",),
    ]
    other = PretrainingText({"stored": str(tmp_path / "b.parquet")}, column="body")
    assert [example.targets for example in other.examples("stored")] == [("Stored.",)]
    assert len({reader.fingerprint(name) for name in reader.sources} | {other.fingerprint("stored")}) == 4
    before = reader.fingerprint("books")
    write(tmp_path, "books/more/b.jsonl", lines({"text": "Another."}))
    assert reader.fingerprint("books") != before


def test_broken_text_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9")
    reader = PretrainingText({"a": str(path), "b": str(tmp_path / "empty")})
    with pytest.raises(ValueError, match=r"pretraining, task a: .*a.txt: not UTF-8 at byte 3"):
        list(reader.examples("a"))
    monkeypatch.setattr(pretraining, "LONGEST_DOCUMENT", 3)
    with pytest.raises(ValueError, match=r"a.txt: longer than 0 MiB, and a .txt file is one document"):
        list(reader.examples("a"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no documents"):
        list(reader.examples("b"))
    with pytest.raises(ValueError, match="no task 'c' in pretraining"):
        reader.task("c")
    with pytest.raises(ValueError, match="sources must name at least one corpus"):
        PretrainingText({})
    rows = write(tmp_path, "c.jsonl", lines({"texts": "a"}))
    with pytest.raises(ValueError, match="line 1: no 'text'; nearest: texts"):
        list(PretrainingText({"c": str(rows)}).examples("c"))


@pytest.mark.real_data
@pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")
def test_the_real_dialogues_read_whole() -> None:
    found = {}
    for split in ("train", "validation", "test"):
        reader = Dialogue("$CROSSTASK_DATA", split=split)  # type: ignore[arg-type]
        for name in reader.task_names(split):  # type: ignore[arg-type]
            examples = list(reader.examples(name))
            assert not any(example.skipped or example.input for example in examples)
            found[split, name] = len(examples)
    assert found == {("train", "taskmaster4"): 300} | {(split, "sgd"): 35 for split in ("train", "validation", "test")}
