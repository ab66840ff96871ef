import json
import pickle
import re
from pathlib import Path

import pytest

from crosstask.datamodules.benchmarks.text_to_text import NO_OUTPUT, REPEATED, T5, CrossFit, ExMix, TextToText
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.schema import Example

SENTENCE = "Choose the sentence that is grammatically acceptable."
TASK = "blimp-ellipsis_n_bar_1"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_samples_of_a_task_are_read_together_and_once(tmp_path: Path) -> None:
    write(tmp_path, f"{TASK}/{TASK}_16_13_train.tsv", "a cat [SEP] a cats\ta cat\nb\tc\td\tc\n")
    write(tmp_path, f"{TASK}/{TASK}_16_21_train.tsv", "b\tc\td\tc\ntorn line\n\ne\tf\n")
    write(tmp_path, f"{TASK}/{TASK}_16_13_dev.tsv", "g\th\n")
    reader = CrossFit(str(tmp_path))
    assert reader.task_names("train") == [TASK]
    assert list(reader.examples(TASK)) == [
        Example(TASK, "train-0", 0, f"{SENTENCE}\na cat [SEP] a cats", ("a cat",)),
        Example(TASK, "train-1", 1, f"{SENTENCE}\nb", ("c", "d")),
        Example(TASK, "train-2", 2, f"{SENTENCE}\nb", (), skipped=REPEATED),
        Example(TASK, "train-3", 3, f"{SENTENCE}\ntorn line", (), skipped=NO_OUTPUT),
        Example(TASK, "train-4", 4, f"{SENTENCE}\ne", ("f",)),
    ]
    assert [example.targets for example in CrossFit(str(tmp_path), split="validation").examples(TASK)] == [("h",)]
    with pytest.raises(ValueError, match="holds the test split of no dataset of crossfit"):
        CrossFit(str(tmp_path), split="test").task_names("test")


def test_rows_of_named_fields_are_read(tmp_path: Path) -> None:
    row = {"inputs": "translate English to German: A cat.", "targets": "Eine Katze."}
    write(tmp_path, "wmt14_ende_v003/train.jsonl", json.dumps(row) + "\n")
    reader = T5(str(tmp_path))
    (example,) = reader.examples("wmt14_ende_v003")
    assert example.input == "Translate the English sentence into German.\ntranslate English to German: A cat."
    assert example.targets == ("Eine Katze.",)
    task = reader.task("wmt14_ende_v003")
    assert (task.benchmark, task.category, task.instruction_level) == ("t5", "Translation", "instance")
    prompt = OptImlPrompt(delimiters=("\nA:",))(task, example, rendering_rng(0, task.name, example.id))
    assert prompt.source == example.input + "\nA:"
    path = write(tmp_path, "c.json", json.dumps([{"input": "A cat.", "output": ["cat ( x )", " "]}]))
    (example,) = ExMix(sources={"cogs": str(path)}).examples("cogs")
    assert (example.input, example.targets) == (
        "Translate the sentence into its logical form.\nA cat.",
        ("cat ( x )",),
    )


@pytest.mark.parametrize(("family", "n"), [(CrossFit, 34), (ExMix, 16), (T5, 7)])
def test_every_instruction_is_one_sentence_and_no_task_is_another_collection_s(
    family: type[TextToText], n: int, tmp_path: Path
) -> None:
    reader = family(str(tmp_path))
    datasets = reader.datasets()
    assert len(datasets) == n
    for dataset in datasets.values():
        assert re.fullmatch(r"[A-Z][^.]*\.", dataset.definition)
        assert dataset.category
    assert not set(datasets) & set(reader._section["elsewhere"])


def test_tasks_of_ones_own_need_an_instruction(tmp_path: Path) -> None:
    write(tmp_path, "tasks/latin/train.tsv", "a cat\tfeles\n")
    write(tmp_path, "tasks/boolq/boolq_16_13_train.tsv", "left to another collection\tyes\n")
    with pytest.raises(ValueError, match=r"crossfit: no instruction for 'latin' in .*; write one in a JSON file"):
        CrossFit(str(tmp_path / "tasks"), sources={TASK: "x.tsv"}).task_names("train")
    entry = {"instruction": "Translate into Latin.", "category": "Translation"}
    path = write(tmp_path, "mine.json", json.dumps({"latin": entry}))
    reader = CrossFit(str(tmp_path / "tasks"), instructions=str(path))
    assert reader.task_names("train") == ["latin"]
    assert [example.input for example in reader.examples("latin")] == ["Translate into Latin.\na cat"]
    before = reader.fingerprint("latin")
    write(tmp_path, "mine.json", json.dumps({"latin": entry | {"instruction": "Say it in Latin."}}))
    assert CrossFit(str(tmp_path / "tasks"), instructions=str(path)).fingerprint("latin") != before
    write(tmp_path, "mine.json", json.dumps({"latin": entry | {"instruction": " "}}))
    with pytest.raises(ValueError, match=r"mine.json, task latin: 'instruction' and 'category' should be text that is"):
        CrossFit(str(tmp_path / "tasks"), instructions=str(path)).datasets()
    write(tmp_path, "mine.json", json.dumps({"latin": {"category": "Translation"}}))
    with pytest.raises(ValueError, match="task latin: no 'instruction'"):
        CrossFit(str(tmp_path / "tasks"), instructions=str(path)).datasets()


def test_broken_files_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path, "cogs/train.jsonl", '{"inputs": "a", "target": "b"}\n')
    with pytest.raises(ValueError, match=r"exmix, task cogs: .*train.jsonl, line 1: no 'targets'; nearest: target"):
        list(ExMix(str(tmp_path)).examples("cogs"))
    path.write_text('{"inputs": "a", "targets": 7}\n')
    with pytest.raises(ValueError, match="line 1: 'targets' should be text or a list of texts, got int 7"):
        list(ExMix(str(tmp_path)).examples("cogs"))
    path.write_text('{"inputs": "a", "targets": [')
    with pytest.raises(ValueError, match="line 1: not valid JSON"):
        list(ExMix(str(tmp_path)).examples("cogs"))
    path = write(tmp_path, f"{TASK}/{TASK}_16_13_train.tsv", "")
    path.write_bytes(b"caf\xe9\tb\n")
    with pytest.raises(ValueError, match=rf"crossfit, task {TASK}: .*train.tsv, line 1: not UTF-8 at byte 3"):
        list(CrossFit(str(tmp_path)).examples(TASK))


def test_a_reader_that_was_used_goes_to_another_process(tmp_path: Path) -> None:
    path = tmp_path / "cogs/train.jsonl"
    path.parent.mkdir()
    path.write_text('{"inputs": "a", "targets": "b"}\n')
    reader = ExMix(str(tmp_path))
    examples = list(reader.examples("cogs"))
    assert list(pickle.loads(pickle.dumps(reader)).examples("cogs")) == examples
