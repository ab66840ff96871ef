"""What `crosstask inspect` shows is what a training step gets: documents, masks, rows, lengths, of every datamodule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from argument_groups import with_changes
from recipes import few_tasks

from crosstask.cli import main
from crosstask.datamodules.inspection.lengths import length_histogram
from crosstask.datamodules.inspection.read_rows import read_batch
from crosstask.datamodules.packing.collate import CausalRows, Seq2SeqRows
from crosstask.datamodules.schema import TokenizedExample

TRAINED = "task001_toy_copy_animals"


def configuration(toybench: Path, tmp_path: Path, kind: str, **changes: Any) -> list[str]:
    """Words that name a configuration of data alone, on a few tasks of the embedded benchmark."""
    splits = few_tasks(toybench, tmp_path / "splits", trained=24)
    arguments: dict[str, Any] = {
        "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench), "splits": splits}},
        "tokenizer": str(toybench / "tokenizer"),
        "instances": {"validation": 1, "test": 3},
    }
    if kind != "InstructionOptimizationDataModule":
        arguments["cache"] = str(tmp_path / "store")
    if kind != "ScorerDataModule":
        arguments["evaluation"] = {"max_new_tokens": 8}
    path = tmp_path / f"{kind}.yaml"
    settings = {"data": {"class_path": kind, "init_args": with_changes(arguments, changes)}}
    path.write_text(yaml.safe_dump(settings))
    return ["--config", str(path)]


def held_out_task(toybench: Path) -> str:
    """A task that is tested and not trained."""
    tested, trained = (
        (toybench / f"splits/default/{split}_tasks.txt").read_text().split() for split in ("test", "train")
    )
    return next(name for name in tested if name not in trained)


def test_targets_special_tokens_and_padding_are_read_from_the_batch(tokenizer: Any) -> None:
    source, target = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("copy: cat dog", " cat dog"))
    eos = tokenizer.eos_token_id
    document = TokenizedExample(np.array([*source, *target, eos]), len(source))
    other = TokenizedExample(np.array([*source, *target[:1], eos]), len(source))
    [row] = read_batch(CausalRows(64, tokenizer.pad_token_id).collate([[document, other]], 1), [2], tokenizer)
    assert [each.column for each in row.documents] == [0, len(document.input_ids)]
    assert row.padding == 64 - len(document.input_ids) - len(other.input_ids)
    spans = row.documents[0].sides[0].spans
    assert [(span.text, span.trained, span.special) for span in spans] == [
        ("copy: cat dog", False, False),
        (" cat dog", True, False),
        (tokenizer.eos_token, True, True),
    ]
    assert row.documents[0].targets == len(target) + 1

    # A document that is cut to a row loses its beginning, as in training.
    [row] = read_batch(CausalRows(4, tokenizer.pad_token_id).collate([[document]], 1), [1], tokenizer)
    assert row.documents[0].tokens == 4
    assert row.documents[0].sides[0].spans[-1].special

    pair = TokenizedExample(np.array([*source, eos, *target, eos]), len(source) + 1)
    [row] = read_batch(Seq2SeqRows(64, 16, tokenizer.pad_token_id).collate([[pair, pair]], 1), [2], tokenizer)
    encoder, decoder = row.documents[1].sides
    assert [(span.text, span.trained) for span in encoder.spans] == [
        ("copy: cat dog", False),
        (tokenizer.eos_token, False),
    ]
    assert all(span.trained for span in decoder.spans)
    assert decoder.spans[0].text.strip() == "cat dog"


def test_a_histogram_counts_every_length_once() -> None:
    histogram = length_histogram("source", np.array([3, 3, 4, 100]), limit=50)
    assert sum(each.documents for each in histogram.bins) == 4
    assert [(each.first, each.last) for each in histogram.bins[:2]] == [(2, 3), (4, 7)]
    assert (histogram.shortest, histogram.median, histogram.longest, histogram.over) == (3, 3.5, 100, 1)
    assert length_histogram("target", np.array([], dtype=int)).bins == ()


def test_the_first_rows_of_a_run_and_a_page_of_one_task(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = configuration(toybench, tmp_path, "InstructionTuningDataModule", rows={"length": 128, "per_step": 4})
    main(["inspect", *words, "--examples", "2"])
    shown = capsys.readouterr().out
    assert "trained tokens are between « and »" in shown
    assert shown.count("«") == 3  # in the legend and two documents
    assert "row 1: 128 columns" in shown
    assert "columns of padding" in shown
    assert "document: " in shown
    assert "task0" in shown
    assert "real tokens that are targets" in shown

    page = tmp_path / "pages" / "page.html"
    main(["inspect", *words, "--task", TRAINED, "--examples", "1", "--output", str(page)])
    text = page.read_text()
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert '<mark class="target">' in text
    assert text.count("<article>") == 1
    assert text.count("<svg") == 3  # source, target, document

    main(["inspect", *words, "--task", held_out_task(toybench), "--examples", "1"])
    shown = capsys.readouterr().out
    assert "evaluated (test)" in shown
    assert "accepted answers:" in shown
    assert shown.count("«") == 1  # nothing is trained

    for wrong, message in [
        (["--task", "task001_toy_copy_animal"], f"nearest: {TRAINED}"),
        (["--task", TRAINED, "--template", "x"], "has no example of the template 'x': it has none"),
        (["--template", "x"], "give --task beside --template x"),
        (["--examples", "0"], "examples"),
    ]:
        with pytest.raises(ValueError, match=message):
            main(["inspect", *words, *wrong])


def test_one_task_prepares_no_other(toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = configuration(toybench, tmp_path, "InstructionTuningDataModule", rows={"length": 128})
    main(["inspect", *words, "--task", TRAINED])
    assert [each.name.partition("-")[0] for each in (tmp_path / "store").glob("task*")] == [TRAINED]


def test_an_encoder_decoder_model_reads_two_sides(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"length": 128, "target_length": 32}
    words = configuration(toybench, tmp_path, "InstructionTuningDataModule", rows=rows)
    main(["inspect", *words, "--task", TRAINED, "--examples", "1"])
    shown = capsys.readouterr().out
    assert shown.index("encoder:") < shown.index("decoder:\n«")
    assert "source (encoder): " in shown


def test_the_pairs_of_a_scorer_have_labels(toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"length": 256, "pair_length": 96, "per_step": 2}
    words = configuration(toybench, tmp_path, "ScorerDataModule", rows=rows)
    main(["inspect", *words, "--examples", "4"])
    shown = capsys.readouterr().out
    assert shown.count("instruction:\n") == shown.count("response:\n") == 4
    assert "correctness 1" in shown
    assert "pair: " in shown
    main(["inspect", *words, "--task", held_out_task(toybench), "--examples", "1"])
    assert "evaluated (test)" in capsys.readouterr().out


def test_both_levels_of_instruction_optimization(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "rows": {"length": 160},
        "levels": {"inner_steps": 2, "inner_rows": 2, "outer_rows": 2},
        "instructions": {"length": 8, "exemplars": 2},
        "instances": {"train": 8},
        "split": {"class_path": "crosstask.datamodules.bilevel.meta_split.CategorySplit", "init_args": {"outer": 1}},
    }
    words = configuration(toybench, tmp_path, "InstructionOptimizationDataModule", **changes)
    main(["inspect", *words, "--examples", "1"])
    shown = capsys.readouterr().out
    assert "(inner, " in shown
    assert "(outer, " in shown
    assert "z, from which its instruction is computed:" in shown
    assert "exemplar 2:" in shown
    main(["inspect", *words, "--task", TRAINED, "--examples", "1"])
    assert TRAINED in capsys.readouterr().out


def test_hostile_texts_reach_neither_terminal_nor_browser(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "<script>alert(1)</script>\x1b[2J\u202e[red]</s>"
    folder = tmp_path / "bench"
    (folder / "tasks").mkdir(parents=True)
    (folder / "splits/default").mkdir(parents=True)
    task = json.loads((toybench / f"tasks/{TRAINED}.json").read_text())
    for instance in task["Instances"]:
        instance["input"] += hostile
    (folder / f"tasks/{TRAINED}.json").write_text(json.dumps(task))
    (folder / "splits/default/train_tasks.txt").write_text(TRAINED)
    (folder / "splits/default/test_tasks.txt").write_text(TRAINED)
    benchmark = {"class_path": "NaturalInstructions", "init_args": {"folder": str(folder)}}
    words = configuration(toybench, tmp_path, "InstructionTuningDataModule", benchmark=benchmark, rows={"length": 256})
    main(["inspect", *words, "--examples", "1", "--output", str(tmp_path / "page.html")])
    assert "<script" not in (tmp_path / "page.html").read_text()
    main(["inspect", *words, "--examples", "1"])
    shown = capsys.readouterr().out
    assert "⟨U+001B⟩[2J⟨U+202E⟩[red]" in shown
    assert "\x1b" not in shown
