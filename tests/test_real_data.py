"""The main job on real files, wherever CROSSTASK_DATA points."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_mirrors import mirror
from small_hub import FRESH, running
from warm_program import WarmProcess, WarmProgram

from crosstask.cli import main

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder"),
]


def test_super_natural_instructions_trains_and_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe as it ships, ten steps of it, and three instances of every test task."""
    recipe = "super_natural_instructions_small"
    monkeypatch.chdir(tmp_path)  # the recipe's folders are relative
    words = ["--benchmark", "NaturalInstructions", "--benchmark.folder", "$CROSSTASK_DATA/superni"]
    words += ["--benchmark.splits", "splits/bundle", "--vocabulary", "2000"]
    main(["tokenizer", *words, "--folder", "runs/super_natural_instructions_small/tokenizer"])
    main(["fit", "--config", recipe, "--trainer.max_steps", "10", "--model.init_args.optimizer.warmup", "2"])
    runs = Path("runs/super_natural_instructions_small")
    packing = json.loads((runs / "version_0/packing.json").read_text())
    assert packing["tasks"] == "500"
    assert packing["examples skipped"] == "15 empty target"  # of 16; the other one is held out, and counted there
    # Rows of 1,024 hold five documents each: there is less to choose from than in rows of 2,048, which reach 99.9%.
    assert float(packing["columns holding real tokens"].rstrip("%")) > 99.5

    few = ["--data.init_args.instances.test", "3", "--data.init_args.evaluation.max_new_tokens", "16"]
    main(["test", "--config", recipe, "--ckpt_path", str(runs / "checkpoints/last.ckpt"), *few])
    report = json.loads((runs / "version_1/report/test/report.json").read_text())
    assert (report["overall"][0]["tasks"], report["overall"][0]["estimates"]["rouge_l"]["count"]) == (80, 240)
    assert len(report["categories"]) == 11
    assert yaml.safe_load((runs / "version_1/config.yaml").read_text())["trainer"]["max_steps"] == 1200


@pytest.mark.usefixtures("warm_python")
def test_the_papers_mixture_trains_on_every_available_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: WarmProgram
) -> None:
    """OPT-IML Bench as its recipe ships it: prepared in parallel, described, six steps, an instance of every task.

    The same prepared tasks serve two ablations, which are trained while a process trains and tests the recipe.
    """
    recipe = "opt_iml_small"
    monkeypatch.chdir(tmp_path)  # the recipe's folders are relative
    words = ["--benchmark", "NaturalInstructions", "--benchmark.folder", "$CROSSTASK_DATA/superni"]
    words += ["--benchmark.splits", "splits/bundle", "--vocabulary", "2000"]
    main(["tokenizer", *words, "--folder", "runs/opt_iml_small/tokenizer"])
    few = ["--data.init_args.instances.test", "1", "--data.init_args.evaluation.max_new_tokens", "8"]
    main(["prepare", "--config", recipe, *few, "--processes", "2"])
    capsys.readouterr()
    main(["describe", "--config", recipe, *few, "--depth", "1"])
    described = capsys.readouterr().out
    rates = {line.split()[0]: line.split()[2] for line in described.splitlines() if line.startswith("  ")}
    assert rates["reasoning"] == "1.000%"
    kept = 1 - float(rates["pretraining"].rstrip("%")) / 100
    ratios = {"super_natural_instructions": 0.25 / 0.72, "unifiedskg": 0.02 / 0.72}  # FLAN and three others are absent
    for name, share in ratios.items():
        assert float(rates[name].rstrip("%")) == pytest.approx(100 * share * kept, abs=0.4)
    assert "no training task is of crossfit, exmix, flan, t5: the others share" in described

    runs = Path("runs/opt_iml_small")
    steps = ["--trainer.max_steps", "6", "--model.init_args.optimizer.warmup", "2"]
    both = ["--data.init_args.evaluation.shots", "[0, 5]", "--data.init_args.evaluation.ranking.labels", "10"]
    fit = program.start("fit", "--config", recipe, *few, *steps)
    sweep("reasoning", ["0%", "1%"], recipe)
    require_success(fit)
    last = ["--ckpt_path", str(runs / "checkpoints/last.ckpt")]
    test = program.start("test", "--config", recipe, *few, *both, *last)
    sweep("tasks", ["64", "all"], recipe)
    require_success(test)
    report = json.loads((runs / "version_1/report/test/report.json").read_text())
    assert all(level["tasks"] > 0 for level in report["levels"])
    assert [level["shots"] for level in report["levels"]] == [0, 0, 0, 5, 5, 5]
    assert report["selection"]["parts"] == sum(mean["parts"] for mean in report["averages"])
    lines = (runs / "version_1/predictions/test.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ranked = {("options" in answer, answer["shots"]) for answer in map(json.loads, lines)}
    assert ranked == {(True, 0), (False, 0), (True, 5), (False, 5)}


def sweep(name: str, arms: list[str], recipe: str) -> None:
    """Sweep two arms of an ablation; their levels stay those of all tasks when fewer train."""
    changes: dict[str, Any] = {"trainer": {"max_steps": 4}, "model": {"init_args": {"optimizer": {"warmup": 2}}}}
    held_out = {"test": 1, "validation_prompts": 1}
    changes["data"] = {"init_args": {"instances": held_out, "evaluation": {"max_new_tokens": 4}}}
    Path("small.yaml").write_text(yaml.safe_dump(changes))
    words = ["--recipe", recipe, "--settings", '["small.yaml"]', "--arms", json.dumps(arms)]
    main(["sweep", f"papers/ablations/{name}", "--output", f"runs/{name}", *words])
    report = json.loads(Path(f"runs/{name}/report.json").read_text())
    assert [system["name"] for system in report["systems"]] == arms
    (comparison,) = report["comparisons"]
    assert comparison["only_base"] == comparison["only_other"] == 0
    scores = json.loads(Path(f"runs/{name}/published.json").read_text())
    assert {score["arm"] for score in scores if score["ours"] is not None} == set(arms)


def require_success(process: WarmProcess) -> None:
    done = process.finish(timeout=1800)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


SMALL = {
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "strategy": "auto",
        "precision": "32-true",
        "max_steps": 100,
        "accumulate_grad_batches": 1,
        "limit_val_batches": 0,
        "val_check_interval": None,
        "default_root_dir": "runs/opt_iml",
        "enable_progress_bar": False,
    },
    "model": {
        "init_args": {
            "pretrained": None,
            "config": {
                "model_type": "opt",
                "hidden_size": 32,
                "word_embed_proj_dim": 32,
                "ffn_dim": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 1024,
            },
            "network": {"compile": False},
            "optimizer": {"learning_rate": 0.002, "warmup": 0.1, "fused": False},
        }
    },
    "data": {
        "init_args": {
            "tokenizer": "runs/tokenizer",
            "rows": {"length": 1024, "per_step": 2},
            "instances": {"train": 20, "test": 1, "validation": 1, "validation_prompts": 1},
            "evaluation": {"max_new_tokens": 4, "shots": [0, 5], "ranking": {"labels": 10}},
            "cache": "runs/store",
        }
    },
}
"""Changes of papers/opt_iml_1.3b: another model, shorter rows, a processor, and few instances of every task."""


def test_the_papers_recipe_runs_on_the_folder_that_download_fills(
    tmp_path: Path, program: WarmProgram, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/data.md says, from mirrors: list, download, verify, prepare, describe, plan, train without data, test."""
    monkeypatch.chdir(tmp_path)
    mirrors = mirror(Path(os.environ["CROSSTASK_DATA"]), tmp_path / "mirrors")
    data = tmp_path / "data"
    words = ["download", "opt_iml", "--to", str(data), "--sources", str(mirrors.sources)]
    main([*words, "--dry_run"])
    assert "templates of flan, splits train, test -> flan/rows" in capsys.readouterr().out
    assert not data.exists()
    mirrors.place_by_hand(data)
    with running(mirrors.hub):
        settings = mirrors.hub.settings(tmp_path / "hub")
        obtained = [program.run("-c", FRESH, *words, *more, **settings) for more in ([], ["--verify"])]
    assert [done.returncode for done in obtained] == [0, 0], obtained[0].stdout[-3000:] + obtained[0].stderr[-3000:]
    assert "asnq-train: left out: hub dataset asnq, split train: no such dataset on the hub" in obtained[0].stdout
    assert "mmlu/archive: by hand" in obtained[0].stdout  # the real files lack two of its folders
    assert ": placed: " not in obtained[1].stdout
    monkeypatch.setenv("CROSSTASK_DATA", str(data))

    tokenizer("runs/tokenizer", "")
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    recipe = ["--config", "papers/opt_iml_1.3b", "--config", "small.yaml"]
    main(["prepare", *recipe, "--processes", "2"])
    capsys.readouterr()
    rates = described(capsys, *recipe)
    assert rates["reasoning"] == pytest.approx(1.0, abs=0.001)
    kept = 1 - rates["pretraining"] / 100
    # 4/2/20/25/45/2/2 of what is no pre-training text; PromptSource pays for the reasoning.
    shares = {"crossfit": 4, "exmix": 2, "flan": 20, "super_natural_instructions": 25, "t5": 2, "unifiedskg": 2}
    assert {name: rates[name] for name in shares} == pytest.approx(
        {name: kept * shares[name] for name in shares}, abs=0.1
    )
    assert sum(rates.values()) == pytest.approx(100, abs=0.1)

    main(["plan", *recipe])
    assert "fits with nothing recomputed" in capsys.readouterr().out
    elsewhere = data.rename(tmp_path / "elsewhere")  # the store alone trains
    main(["fit", *recipe])
    elsewhere.rename(data)
    main(["test", *recipe, "--ckpt_path", "last"])
    report = json.loads(Path("runs/opt_iml/version_1/report/test/report.json").read_text())
    assert [level["shots"] for level in report["levels"]] == [0, 0, 0, 5, 5, 5]
    assert all(level["tasks"] > 0 for level in report["levels"])
    lines = Path("runs/opt_iml/version_1/predictions/test.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    levels = {answer["task"]: answer["level"] for answer in map(json.loads, lines)}
    assert (
        levels["flan_test/cnn_dailymail"] == levels["promptsource_held_out/cnn_dailymail_3.0.0"] == "fully_supervised"
    )
    assert levels["flan_test/rte"] == "fully_held_out"


def tokenizer(folder: str, splits: str) -> None:
    """Train a tokenizer on the tasks of Super-NaturalInstructions in CROSSTASK_DATA."""
    words = ["--benchmark", "NaturalInstructions", "--benchmark.folder", "$CROSSTASK_DATA/superni"]
    main(["tokenizer", *words, "--benchmark.splits", splits, "--vocabulary", "2000", "--folder", folder])


def described(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, float]:
    """The share of each collection in percent, as `crosstask describe` prints it."""
    main(["describe", *words, "--depth", "1"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    return {line[0]: float(line[2].rstrip("%")) for line in lines}
