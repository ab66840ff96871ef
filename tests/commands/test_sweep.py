"""A sweep trains its arms, evaluates them, resumes, and reports them beside a paper's scores."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes import few_tasks, store_of

from crosstask.callbacks.report.comparison import System
from crosstask.callbacks.report.published_scores import PublishedTable, compare_with_published
from crosstask.callbacks.report.scores import build_report
from crosstask.commands.shared.config_names import configs_folder
from crosstask.commands.shared.sweep_collections import require_arm_collections
from crosstask.commands.shared.sweep_declarations import read_sweep
from crosstask.commands.shared.sweep_runs import sweep_runs, write_run
from crosstask.commands.sweep import run_sweep
from crosstask.datamodules.toybench.families import write_families
from crosstask.lightning_modules.evaluation.aggregation import Cell, ScoredInstance

SWEEP: dict[str, Any] = {
    "title": "Caps in small",
    "source": "a table",
    "recipe": "quickstart",
    "stage": "validation",
    "settings": {"data.init_args.rows": {"length": 128, "per_step": 4}},
    "arms": {
        "cap/8": {"data.init_args.mixture.cap": 8},
        "no cap": {"data.init_args.mixture.cap": None},
    },
    "published": {"columns": {"Average": {}}, "scores": {"cap/8": [12.5], "no cap": ["10"]}},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return written(tmp_path, SWEEP)


def written(folder: Path, content: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def small(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> str:
    """Settings that make the recipe small."""
    data = {
        "benchmark": {
            "class_path": "NaturalInstructions",
            "init_args": {"folder": str(toybench), "splits": few_tasks(toybench, tmp_path / "splits")},
        },
        "tokenizer": str(toybench / "tokenizer"),
        "evaluation": {"max_new_tokens": 4},
        "instances": {"test": 1, "validation": 1},
        "cache": str(store_of(toybench)),
    }
    changes = {
        "trainer": {"max_steps": 2, "limit_val_batches": 0, "log_every_n_steps": 1},
        "model": {"init_args": {"config": {**tiny_model, "num_hidden_layers": 1}, "optimizer": {"warmup": 1}}},
        "data": {"init_args": data},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(changes))
    return str(path)


@pytest.mark.usefixtures("warm_python")
def test_arms_are_trained_once_and_reported_beside_the_published_scores(
    sweep: Path, small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "runs"
    run_sweep([str(sweep)], str(home), settings=[small], arms=["cap/8"])
    recipe = yaml.safe_load((home / "cap-8/run/recipe.yaml").read_text())
    assert recipe["data"]["init_args"]["mixture"] == {"cap": 8}
    assert recipe["data"]["init_args"]["rows"] == {"length": 128, "per_step": 4}
    assert [path.name for path in (home / "cap-8/run/checkpoints").iterdir()] == ["last.ckpt"]
    trained = (home / "cap-8/run/checkpoints/last.ckpt").stat().st_mtime_ns

    broken = {"bad": {"trainer.max_steps": "many"}, **SWEEP["arms"]}
    with pytest.raises(ValueError, match=r"(?s)1 of 3 runs failed: `crosstask fit` failed for .*bad.*max_steps"):
        run_sweep([str(written(tmp_path, SWEEP | {"arms": broken}))], str(home), settings=[small])
    assert (home / "cap-8/run/checkpoints/last.ckpt").stat().st_mtime_ns == trained  # nothing is trained twice
    said = capsys.readouterr().out
    assert "cap/8 is finished" in said
    assert "not in the report, since they are not evaluated: bad" in said

    report = json.loads((home / "report.json").read_text())
    assert [system["name"] for system in report["systems"]] == ["cap/8", "no cap"]
    assert report["comparisons"][0]["shared"] > 0
    page = (home / "report.html").read_text()
    assert "Caps in small" in page
    assert "Published scores are those of a table, in percent." in page
    section = page.partition('id="published"')[2].partition("</section>")[0]
    assert re.search(r"cap/8</td><td>12\.5</td><td><b>", section)  # ours stands beside it
    rows = {row["arm"]: row for row in json.loads((home / "published.json").read_text())}
    assert (rows["cap/8"]["published"], rows["no cap"]["published_change"]) == (12.5, -2.5)
    assert rows["no cap"]["change"] == pytest.approx(
        100 * (rows["no cap"]["ours"]["mean"] - rows["cap/8"]["ours"]["mean"])
    )
    assert "| Average | 0 | no cap | 10.0 |" in (home / "published.md").read_text()

    other = str(written(tmp_path, SWEEP | {"arms": SWEEP["arms"] | {"cap/8": {"data.init_args.mixture.cap": 9}}}))
    with pytest.raises(ValueError, match=r"holds a run of other settings: .*mixture\.cap is 8 there and 9 here"):
        run_sweep([other], str(home), settings=[small])


def test_a_job_of_the_cluster_gets_the_recipes_and_their_list(sweep: Path, small: str, tmp_path: Path) -> None:
    run_sweep([str(sweep)], str(tmp_path / "runs"), settings=[small], seeds=[1, 2], write_only=True)
    folders = (tmp_path / "runs/runs.txt").read_text().split("\n")[:-1]
    assert [str(Path(folder).relative_to(tmp_path / "runs")) for folder in folders] == [
        "cap-8/seed-1",
        "cap-8/seed-2",
        "no-cap/seed-1",
        "no-cap/seed-2",
    ]
    recipe = yaml.safe_load((Path(folders[1]) / "recipe.yaml").read_text())
    seeds = recipe["seed_everything"], recipe["model"]["init_args"]["seed"], recipe["data"]["init_args"]["seed"]
    assert seeds == (2, 2, 2)
    assert recipe["trainer"]["default_root_dir"] == folders[1]


OWN_DATA: dict[str, Any] = {
    "trainer": {"max_steps": 1, "callbacks": "ProgressLines"},
    "model": {"class_path": "InstructionTuningModule", "init_args": {"pretrained": "tiny"}},
    "data": {"class_path": "InstructionTuningDataModule", "init_args": {"benchmark": "mine.jsonl"}},
}
"""A recipe in its short forms, as `crosstask fit` reads it."""


def test_a_sweep_over_a_file_of_ones_own_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"input": "1", "output": "2"}\n')
    Path("own.yaml").write_text(yaml.safe_dump(OWN_DATA))
    arms = {"a": {}, "b": {"data.init_args.mixture.proportions": {"file_tasks": 1.0}}}
    path = str(written(tmp_path, {"title": "mine", "arms": arms}))  # its recipe is that of the command
    runs = sweep_runs(read_sweep(path, "own.yaml"), tmp_path / "runs", seeds=[0, 1])
    require_arm_collections(read_sweep(path, "own.yaml"), runs)
    assert [run.arm for run in runs] == ["a", "a", "b", "b"]
    names = [each if isinstance(each, str) else each["class_path"] for each in runs[0].settings["trainer"]["callbacks"]]
    assert names == ["ProgressLines", "PredictionWriter", "ModelCheckpoint"]

    write_run(runs[0])
    Path("mine.jsonl").write_text('{"input": "1", "output": "3"}\n')
    with pytest.raises(ValueError, match=r"holds a run on other files than those at mine\.jsonl"):
        write_run(runs[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": None}, "recipe should be a YAML of `crosstask fit`, by path or by name, got None; --recipe gives"),
        ({"arm": {}}, "unknown field 'arm'; nearest: arms"),
        ({"arms": {"one": {}}}, "arms should be at least two"),
        ({"arms": {"one": {}, "two": 3}}, "the arm 'two' should be a mapping of settings, got 3"),
        ({"arms": {"1%": {}, "1-": {}}}, "another arm would have the folder of '1%', 1-"),
        ({"stage": "train"}, "stage is validation or test"),
        ({"source": ""}, "the sweep a source"),
        (
            {"published": {"columns": {"Average": {}}, "scores": {"cap/9": [1]}}},
            "names the arm 'cap/9'; nearest: cap/8",
        ),
        (
            {"published": {"columns": {"Average": {}}, "scores": {"cap/8": [1, 2]}}},
            "has 2 columns for 'cap/8', expected 1",
        ),
        ({"published": {"columns": {"Average": {}}, "scores": {"cap/8": ["1/2"]}}}, "1 to 1 percentages joined by /"),
        ({"published": {"columns": {"QA": {"level": "held out", "column": "QA"}}, "scores": {}}}, "'QA' needs a level"),
    ],
)
def test_a_file_that_declares_no_sweep_is_rejected_by_its_field(tmp_path: Path, changes: dict, message: str) -> None:
    path = written(tmp_path, SWEEP | changes)
    with pytest.raises(ValueError, match=rf"sweep.yaml declares no sweep: .*{message}"):
        read_sweep(str(path))


def test_a_share_of_a_collection_that_is_not_there_is_rejected_before_anything_runs(tmp_path: Path) -> None:
    bench = {"data.init_args.benchmark": {"class_path": "Bench", "init_args": {"collections": {"toy": {}, "flan": {}}}}}
    arms = {"a": {}, "b": {"data.init_args.mixture.proportions": {"toy": 0.5, "exmix": 0.5}}}
    declared = read_sweep(str(written(tmp_path, SWEEP | {"settings": bench, "arms": arms, "published": None})))
    with pytest.raises(ValueError, match="the arm 'b' mixes exmix, and the benchmark has only toy, flan"):
        sweep_runs(declared, tmp_path)
    with pytest.raises(ValueError, match="no arm 'c'"):
        sweep_runs(declared, tmp_path, arms=["c"])


def test_an_arm_whose_collection_has_no_files_is_rejected_before_anything_runs(small: str, tmp_path: Path) -> None:
    """`absent: shared` would give its share to the others, and the arm would be the base under another name."""
    dialogue = {
        "data.init_args.benchmark.init_args.collections.dialogue": {
            "class_path": "Dialogue",
            "init_args": {"folder": str(tmp_path / "nothing")},
        },
        "data.init_args.mixture": {"absent": "shared", "extra": {"dialogue": {"share": 0.1}}},
    }
    content = SWEEP | {"arms": {"none": {}, "0.5%": dialogue}, "published": None}
    with pytest.raises(ValueError, match=r"the arm '0.5%' trains on dialogue, and no folder .*crosstask download"):
        run_sweep([str(written(tmp_path, content))], str(tmp_path / "runs"), settings=[small])
    assert not (tmp_path / "runs").exists()


def test_an_arm_whose_collection_has_only_evaluated_datasets_is_rejected(toybench: Path, tmp_path: Path) -> None:
    """If unifiedskg was downloaded, and dialogue was not, the collection has the schema-guided dialogues alone."""
    write_families(tmp_path / "families")
    (tmp_path / "families/sgd").rename(tmp_path / "sgd")
    readers = {"toy": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench), "splits": ""}}}
    readers["dialogue"] = {"class_path": "Dialogue", "init_args": {"folder": str(tmp_path)}}
    bench = {"class_path": "Bench", "init_args": {"rules": "opt_iml", "collections": readers}}
    arms = {"none": {}, "0.5%": {"data.init_args.mixture.extra.dialogue.share": 0.005}}
    content = {"settings": {"data.init_args.benchmark": bench}, "arms": arms, "published": None}
    message = r"the arm '0.5%' trains on dialogue, and none of its tasks trains: dialogue/sgd, its dataset is evaluated"
    with pytest.raises(ValueError, match=message):
        run_sweep([str(written(tmp_path, SWEEP | content))], str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_shares_of_collections_without_files_are_rejected_together_before_anything_runs(
    toybench: Path, tmp_path: Path
) -> None:
    """As in papers/ablations/proportions: a share that goes to the others makes arms equal."""
    readers = {"t5": {"class_path": "T5", "init_args": {"folder": str(tmp_path / "t5")}}}
    readers["exmix"] = {"class_path": "ExMix", "init_args": {"folder": str(tmp_path / "exmix")}}
    readers["toy"] = {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}}
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"input": "2 + 2?", "output": "4"}\n')
    bench = {"class_path": "Bench", "init_args": {"partial": True, "collections": {**readers, "mine": str(mine)}}}
    shares = ({"toy": 0.5, "t5": 0.3, "mine": 0.2}, {"toy": 0.3, "t5": 0.5, "exmix": 0.2}, {"toy": 1, "t5": 0})
    arms = {name: {"data.init_args.mixture.proportions": share} for name, share in zip("abc", shares, strict=True)}
    content = {"settings": {"data.init_args.benchmark": bench}, "arms": arms, "published": None}
    message = (
        r"the arms 'a', 'b' train on t5, and no folder \S+/t5, .*; the arm 'b' trains on exmix, and no folder \S+/exmix"
        r".*obtain these collections with `crosstask download` .* leave the arms out"
    )
    settings = tmp_path / "only_rows.yaml"
    settings.write_text(yaml.safe_dump({"trainer": {"max_steps": 2}}))
    with pytest.raises(ValueError, match=message):
        run_sweep([str(written(tmp_path, SWEEP | content))], str(tmp_path / "runs"), settings=[str(settings)])
    assert not (tmp_path / "runs").exists()


def test_the_array_of_a_cluster_trains_and_evaluates_a_line_of_the_list(tmp_path: Path) -> None:
    script = configs_folder() / "slurm/ablations.sbatch"
    (tmp_path / "runs.txt").write_text("runs/first arm\nruns/second arm\n")
    for name in ("srun", "crosstask"):
        (tmp_path / name).write_text(
            '#!/bin/sh\n[ "$1" = --kill-on-bad-exit=1 ] && shift && exec "$@"\nprintf "%s|" "$@"\n'
        )
        (tmp_path / name).chmod(0o755)

    def started(task: int, *words: str) -> "subprocess.CompletedProcess[str]":
        places = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(task)}
        sizes = {"SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2"}
        command = ["bash", str(script), str(tmp_path), *words]
        return subprocess.run(command, env=places | sizes, capture_output=True, text=True, check=False)

    common = "--config|runs/second arm/recipe.yaml|--ckpt_path|last|--trainer.num_nodes|2|--trainer.devices|8|"
    assert started(2).stdout == f"fit|{common}validate|{common}--trainer.limit_val_batches|1.0|"
    assert started(2, "test").stdout == f"fit|{common}test|{common}"
    outside = started(3)
    assert outside.returncode == 1
    assert "runs.txt has no line 3" in outside.stdout


def test_a_published_score_stands_beside_ours_at_the_same_level_and_shots() -> None:
    def rows(score: float) -> list[ScoredInstance]:
        return [
            ScoredInstance("sni", "t", None, "Poems", "fully_held_out", shots, "rouge_l", "1", up, up, up)
            for shots, up in ((0, score), (5, score + 0.25))
        ]

    systems = [System(name, [], build_report([rows(score)])) for name, score in (("base", 0.25), ("other", 0.5))]
    table = PublishedTable(
        "Table 1",
        (0, 5),
        {"Poems": Cell("column", "fully_held_out", "Poems"), "Titles": Cell("column", "fully_held_out", "Titles")},
        {"base": {"Poems": (20.0, 30.0), "Titles": (50.0,)}, "other": {"Poems": (21.5,)}},
    )
    compared = {(score.column, score.shots, score.arm): score for score in compare_with_published(table, systems)}
    zero, five = compared["Poems", 0, "other"], compared["Poems", 5, "other"]
    assert (zero.published, zero.published_change, zero.change) == (21.5, 1.5, 25.0)
    assert zero.ours is not None
    assert zero.ours.mean == 0.5
    assert (five.published, five.published_change, five.change) == (None, None, 25.0)
    assert compared["Titles", 0, "base"].ours is None  # published, and not evaluated by us
    assert ("Titles", 5, "base") not in compared
