"""Adapting a frozen model to tasks through a scorer: on responses where right and wrong can be told apart."""

import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from recipes import store_of
from safetensors.torch import load_file, save_file

from crosstask.commands.adapt import adapt_tasks, all_trainings
from crosstask.commands.select import select_samples
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.benchmarks import BigBench
from crosstask.datamodules.rendering.prompts import OptImlPrompt
from crosstask.datamodules.scoring.sampled_examples import SampledExamples
from crosstask.datamodules.scoring.samples import Sample
from crosstask.lightning_modules.adaptation import scorer_records as adapted_scorers
from crosstask.lightning_modules.adaptation.adaptation_plan import TaskLoad, Trial, plan_adaptation
from crosstask.lightning_modules.adaptation.scorer_training import ScorerTraining
from crosstask.lightning_modules.adaptation.task_scorer import adapt

TASKS = ["task001_toy_copy_animals", "task010_toy_reverse_animals"]
ENCODER: dict[str, Any] = {
    "model_type": "roberta",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 160,
    "hidden_dropout_prob": 0.0,
}


def answers(benchmark: Any, names: list[str], path: Path, *, wrong: str) -> str:
    """A model whose beam is `wrong`, and one of whose two nucleus samples is right."""
    lines = []
    for name in names:
        for number, example in enumerate(benchmark.examples(name)):
            right = example.targets[0]
            pair = [wrong, right] if number % 2 else [right, wrong]
            for decoding, place, text in (("beam", 0, wrong), ("nucleus", 0, pair[0]), ("nucleus", 1, pair[1])):
                lines.append(Sample(text, "m", decoding, place, -1.0 - place, 3).line(name, example.id))
    path.write_text("".join(lines))
    return str(path)


def training(toybench: Path, **arguments: Any) -> ScorerTraining:
    fields: dict[str, Any] = {
        "config": ENCODER,
        "tokenizer": str(toybench / "tokenizer"),
        "steps": 30,
        "batch": 32,
        "learning_rate": 3e-3,
        "row_length": 256,
        "pair_length": 128,
        "train_examples": 30,
        "accelerator": "cpu",
    }
    return ScorerTraining(**{**fields, **arguments})


def test_tasks_are_adapted_to_reported_and_not_trained_twice(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wrong answer is always the same word, so that thirty steps tell it from the right one."""
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"test_examples": 8, "sizes": [1], "cache": str(store_of(toybench))}
    out = tmp_path / "out"
    how = training(toybench, calibration_examples=5)
    options |= {"variants": {"reward": {"loss": "pairwise"}}, "keep_scorers": True}
    adapt_tasks(benchmark, [file], str(out), how, tasks=TASKS, **options)
    found = json.loads((out / "report.json").read_text())
    assert found["methods"]["oracle"]["mean"] == 1.0
    assert found["methods"]["beam"]["mean"] == 0.0
    assert found["methods"]["scorer"]["mean"] > 0.9
    recovered = found["scorers"]["scorer"]["recovered"]
    assert recovered > 0.8  # the best single decoding is right half of the time
    assert found["methods"]["reward"]["mean"] > 0.9
    assert found["scorers"]["reward"]["training"]["loss"] == "pairwise"
    assert found["scorers"]["reward"]["costs"][TASKS[0]]["parted"] == 0
    errors = found["scorers"]["reward"]["calibration_error"]
    assert errors["scores"] is None  # scores of a ranking loss are no correctness
    assert errors["calibrated"] < 0.2
    assert found["methods"]["self-consistency, reward, calibrated"]["mean"] > 0.9
    assert found["sizes"]["1"]["scorer"] == found["methods"]["nucleus"]["mean"]
    assert set(found["advantages"]) == {"self-scoring", "best single decoding"}
    assert all(set(of) == set(TASKS) for of in found["advantages"].values())
    for name in TASKS:
        means = found["tasks"][name]
        for base, row in (("self-scoring", "self-score, sum"), ("best single decoding", found["best_single"])):
            assert found["advantages"][base][name]["mean"] == pytest.approx(means["scorer"] - means[row])
    cost = found["costs"][TASKS[0]]
    assert 20 < cost["pairs_per_step"] < 50
    assert cost["storage"] > 0.1
    trained = json.loads((out / "tasks" / f"{TASKS[0]}.samples.jsonl").read_text().splitlines()[0])["id"]
    assert trained not in [example.id for example in benchmark.examples(TASKS[0])][:8]
    written = (out / "report.md").read_text()
    assert "scorer's choice" in written
    assert f"| scorer | {recovered:.1%} |" in written
    assert "| chosen by | ROUGE-L | 95% | over the best single decoding | of 1 | of 3 |" in written
    costs = [found["costs"][name] for name in TASKS]
    assert f"| scorer | 2 | {sum(cost['seconds'] for cost in costs):.0f} |" in written
    for name in TASKS:
        means = found["tasks"][name]
        shown = [means[method] for method in ("self-score, sum", found["best_single"], "scorer", "reward", "oracle")]
        assert f"| {' | '.join(f'{100 * mean:.1f}' for mean in shown)} |" in written
    for base, file_name in (("self-scoring", "self_scoring"), ("best single decoding", "best_single_decoding")):
        check_chart(out / f"advantages_over_{file_name}.svg", found["advantages"][base])
    assert "## Tasks with the smallest gain over self-scoring" in written
    before = [path.stat().st_mtime_ns for path in sorted((out / "tasks").glob("*.json"))]
    adapt_tasks(benchmark, [file], str(out), how, tasks=TASKS, **options)
    assert [path.stat().st_mtime_ns for path in sorted((out / "tasks").glob("*.json"))] == before

    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(out), replace(how, steps=1), tasks=TASKS, **options)
    assert "was made with steps 30, not 1: remove it" in capsys.readouterr().out

    tested = SampledExamples(benchmark, parts=["test"], tasks=TASKS[:1], validation_examples=0, test_examples=8)
    kept = str(out / "scorers" / f"{TASKS[0]}.reward")
    select_samples(tested, [file], str(tmp_path / "selected"), kept, max_length=128, sizes=[])
    selected = json.loads((tmp_path / "selected" / "selection.json").read_text())["methods"]
    assert selected["scorer"]["mean"] == found["tasks"][TASKS[0]]["reward"]
    assert (
        selected["self-consistency, calibrated"]["mean"]
        == (found["tasks"][TASKS[0]]["self-consistency, reward, calibrated"])
    )


def test_variants_change_what_a_training_has(toybench: Path) -> None:
    given = training(toybench)
    found = all_trainings(given, True, {"plain": {"augmentation": False}, "short": {"steps": 1, "loss": "listwise"}})
    assert found["plain"] == (given, False)
    assert found["short"] == (replace(given, steps=1, loss="listwise"), True)
    with pytest.raises(ValueError, match="variant a: there is no 'step' to change, nearest: steps"):
        all_trainings(given, True, {"a": {"step": 1}})
    with pytest.raises(ValueError, match="variant a: loss must be one of regression, pairwise, listwise, got 'pairs'"):
        all_trainings(given, True, {"a": {"loss": "pairs"}})
    for taken in ("scorer", "calibrated", "oracle", "a/b"):
        with pytest.raises(ValueError, match=f"a variant cannot be called '{taken}'"):
            all_trainings(given, True, {taken: {}})
    with pytest.raises(ValueError, match=r"training\.batch must be at least 1, got 0"):
        training(toybench, batch=0)


def test_accumulated_batches_make_the_same_step(toybench: Path, tmp_path: Path) -> None:
    """And a pair that is too long is counted."""
    found = [
        adapt(
            NaturalInstructions(str(toybench)),
            TASKS[0],
            training(
                toybench,
                steps=3,
                batch=48,
                accumulate=parts,
                gradient_checkpointing=parts > 1,
                pair_length=20,
                config={**ENCODER, "attention_probs_dropout_prob": 0.0},
            ),
            prompt=OptImlPrompt(),
            samples=[],
            augmentation=False,
            test_examples=8,
            rendering_seed=0,
            cache=str(store_of(toybench)),
        )
        for parts in (1, 2)
    ]
    assert found[0].pairs_per_step == found[1].pairs_per_step
    pairs = ["list: cat dog", "list: fox", "list: fox"], ["cat dog", "fox", "zebra"]
    one, two = (each.module.cross_encoder(max_length=20).score(*pairs) for each in found)
    torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
    assert one.mean() > 0.3  # three steps move the scores from 0 towards the labels' mean
    assert 0 < found[0].cut == found[1].cut
    assert found[0].response_cut == 0


def check_chart(path: Path, advantages: dict[str, Any]) -> None:
    """A figure by itself: a point for each task, the largest gain first, to the right in proportion to the gain."""
    root = ElementTree.parse(path).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{svg}svg"
    groups = [group for group in root.iter(f"{svg}g") if group.get("class") == "differences"]
    uses = [use for group in groups for use in group.iter(f"{svg}use")]
    points = [(float(use.get("y", "")), float(use.get("x", ""))) for use in uses]
    gains = sorted((gain["mean"] for gain in advantages.values()), reverse=True)
    reach = 1.08 * max(abs(gain[end]) for gain in advantages.values() for end in ("mean", "low", "high"))
    left, right = 72 * 3.5, 72 * (9.6 - 1.35)  # of the axes, in points; 0 is in the middle
    middle = (left + right) / 2
    expected = [middle + gain / reach * (right - middle) for gain in gains]
    assert [x for _, x in sorted(points)] == pytest.approx(expected, abs=0.1)
    texts = [text.text for text in root.iter(f"{svg}text")]
    assert set(advantages) <= set(texts)
    assert path.with_suffix(".pdf").is_file()
    assert path.with_suffix(".png").is_file()


def test_the_released_schedule_never_leaves_its_warm_up(toybench: Path, tmp_path: Path) -> None:
    """800 steps of 12,800, a tenth of which warm up, end at 801 / 1280 of the peak; 8 steps of 128, at 9 / 13."""
    benchmark = NaturalInstructions(str(toybench))
    found = adapt(
        benchmark,
        TASKS[0],
        training(toybench, steps=8, schedule_steps=128, learning_rate=2e-5, train_examples=4),
        prompt=OptImlPrompt(),
        samples=[],
        augmentation=False,
        test_examples=4,
        rendering_seed=0,
        cache=str(store_of(toybench)),
    )
    [group] = {group["lr"] for group in found.module.optimizers().param_groups}  # type: ignore[union-attr]
    assert group == pytest.approx(2e-5 * 9 / 13)


def test_a_task_that_fails_is_reported_and_the_others_go_on(toybench: Path, tmp_path: Path) -> None:
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    with pytest.raises(SystemExit):
        adapt_tasks(
            benchmark,
            [file],
            str(tmp_path / "out"),
            training(toybench, steps=2),
            tasks=TASKS[::-1],
            test_examples=4,
            cache=str(store_of(toybench)),
        )
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(found["tasks"]) == TASKS[:1]
    assert "4 of 4 examples have no response" in found["failed"][TASKS[1]]
    assert "failed" in (tmp_path / "out" / "report.md").read_text()


def test_a_scorer_that_diverges_fails_its_task_alone(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"tasks": TASKS, "test_examples": 4, "cache": str(store_of(toybench))}

    def diverged(benchmark: Any, task: str, *args: Any, **settings: Any) -> Any:
        found = adapt(benchmark, task, *args, **settings)
        if task == TASKS[0]:
            torch.nn.init.constant_(found.module.scorer.get_parameter("classifier.out_proj.bias"), float("nan"))
        return found

    monkeypatch.setattr(adapted_scorers, "adapt", diverged)
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(found["tasks"]) == TASKS[1:]
    assert "scores are not finite" in found["failed"][TASKS[0]]
    monkeypatch.undo()
    adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)  # and is tried again
    assert list(json.loads((tmp_path / "out" / "report.json").read_text())["tasks"]) == TASKS


def test_a_scorer_and_its_optimizer_are_gone_before_the_next_task(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    modules: list[weakref.ref[Any]] = []

    def watched(*args: Any, **settings: Any) -> Any:
        assert not [module for module in modules if module() is not None]
        found = adapt(*args, **settings)
        modules.append(weakref.ref(found.module))
        return found

    monkeypatch.setattr(adapted_scorers, "adapt", watched)
    options: dict[str, Any] = {"tasks": TASKS, "test_examples": 4, "cache": str(store_of(toybench))}
    adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)
    assert len(modules) == 2


def test_scorers_of_other_answers_are_not_taken_for_these(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = NaturalInstructions(str(toybench))
    options: dict[str, Any] = {"tasks": TASKS[:1], "test_examples": 4, "cache": str(store_of(toybench))}
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)
    tested = {example.id for example in list(benchmark.examples(TASKS[0]))[:4]}
    lines = Path(file).read_text().splitlines(keepends=True)
    others = [line if json.loads(line)["id"] in tested else line.replace("zebra", "mouse") for line in lines]
    Path(file).write_text("".join(others))
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), **options)
    assert "was made with answers" in capsys.readouterr().out


def test_scorers_of_other_weights_are_not_taken_for_these(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights to start from change under the same path; the report stays that of the old ones."""
    benchmark = NaturalInstructions(str(toybench))
    options: dict[str, Any] = {"tasks": TASKS[:1], "test_examples": 4, "cache": str(store_of(toybench))}
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    adapt_tasks(benchmark, [file], str(tmp_path / "out"), training(toybench, steps=1), keep_scorers=True, **options)
    weights = tmp_path / "weights"
    shutil.copytree(tmp_path / "out" / "scorers" / TASKS[0], weights)
    how = training(toybench, steps=1, config=None, pretrained=str(weights))
    adapt_tasks(benchmark, [file], str(tmp_path / "second"), how, **options)
    report = (tmp_path / "second" / "report.json").read_bytes()
    tensors = load_file(weights / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in tensors.items()}, weights / "model.safetensors")
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "second"), how, **options)
    assert "was made with pretrained" in capsys.readouterr().out
    assert (tmp_path / "second" / "report.json").read_bytes() == report


def test_answers_that_are_held_out_to_calibrate_train_nothing(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All ten that were answered are held out: what is left to train has no answers, and is not trained in silence."""
    benchmark = NaturalInstructions(str(toybench))
    parts = SampledExamples(benchmark, parts=["train", "test"], tasks=TASKS[:1], train_examples=10, test_examples=4)
    sampled = {each.example.id for each in replace(parts, validation_examples=0).prompts()}
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    lines = Path(file).read_text().splitlines(keepends=True)
    Path(file).write_text("".join(line for line in lines if json.loads(line)["id"] in sampled))
    options: dict[str, Any] = {"tasks": TASKS[:1], "test_examples": 4, "cache": str(store_of(toybench))}
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path / "a"), training(toybench, calibration_examples=10), **options)
    assert "none of the 30 training instances" in capsys.readouterr().out
    how = training(toybench, calibration_examples=4, train_examples=10, steps=1)
    adapt_tasks(benchmark, [file], str(tmp_path / "b"), how, **options)
    found = json.loads((tmp_path / "b" / "report.json").read_text())
    assert found["costs"][TASKS[0]]["unanswered"] == 4
    assert "scorer: 4 training instances have no response." in (tmp_path / "b" / "report.md").read_text()


def test_tasks_and_files_are_looked_for_before_anything_is_trained(toybench: Path, tmp_path: Path) -> None:
    benchmark, out = NaturalInstructions(str(toybench)), str(tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"no task 'task001_toy_copy_animal' among .* nearest: task001_toy_copy_animals"
    ):
        adapt_tasks(benchmark, [], out, training(toybench), tasks=[*TASKS, "task001_toy_copy_animal"])
    with pytest.raises(ValueError, match=r"no file or folder .*absent\.jsonl with model samples"):
        adapt_tasks(benchmark, [str(tmp_path / "absent.jsonl")], out, training(toybench), tasks=TASKS)
    (tmp_path / "add").mkdir()
    (tmp_path / "add" / "task.json").write_text(json.dumps({"examples": [{"input": "1", "target": "2"}] * 40}))
    with pytest.raises(ValueError, match="lists no task to test: give `test`"):
        adapt_tasks(BigBench(str(tmp_path), "train"), [], out, training(toybench))


def test_a_variant_cannot_be_called_as_a_decoding(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"tasks": TASKS[:1], "test_examples": 4, "cache": str(store_of(toybench))}
    with pytest.raises(SystemExit):
        adapt_tasks(benchmark, [file], str(tmp_path), training(toybench), variants={"beam": {}}, **options)
    assert "a scorer cannot be called 'beam'" in capsys.readouterr().out
    assert not list((tmp_path / "tasks").iterdir())


def test_instances_that_are_read_apart_stay_apart(toybench: Path, tmp_path: Path) -> None:
    """BIG-bench: learned is the part "train", chosen for is "validation"; the ablation needs no training samples."""
    folder = tmp_path / "bigbench" / "add"
    folder.mkdir(parents=True)
    examples = [{"input": f"{n} plus 1", "target": str(n + 1)} for n in range(40)]
    (folder / "task.json").write_text(json.dumps({"name": "add", "examples": examples, "metrics": ["exact_str_match"]}))
    parts = [BigBench(str(tmp_path / "bigbench"), part=part) for part in ("train", "validation")]
    file = answers(parts[1], ["add"], tmp_path / "samples.jsonl", wrong="0")
    run: dict[str, Any] = {"test": parts[1], "cache": str(store_of(toybench))}
    adapt_tasks(parts[0], [file], str(tmp_path / "out"), training(toybench, steps=1), augmentation=False, **run)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["instances"] == 16
    with pytest.raises(SystemExit):
        adapt_tasks(parts[0], [file], str(tmp_path / "other"), training(toybench, steps=1), **run)
    assert not (tmp_path / "other" / "report.json").exists()  # no answer to a training instance


def test_processes_share_the_tasks_and_the_last_one_reports(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tasks of a SLURM array, one after the other, write what one process writes, but for durations."""
    benchmark, out = NaturalInstructions(str(toybench)), tmp_path / "out"
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"test_examples": 4, "sizes": [], "cache": str(tmp_path / "store"), "tasks": TASKS}
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    for place in (1, 0):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(place))
        if place:
            with pytest.raises(SystemExit) as ended:
                adapt_tasks(benchmark, [file], str(out), training(toybench, steps=2), **options)
            assert ended.value.code == 0
            assert "1 of 2 tasks are finished" in capsys.readouterr().out
            assert [path.stem for path in (out / "tasks").glob("*.json")] == [TASKS[1]]
        else:
            adapt_tasks(benchmark, [file], str(out), training(toybench, steps=2), **options)
    assert "hours of training, on one device: scorer 0.0" in capsys.readouterr().out
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    adapt_tasks(benchmark, [file], str(tmp_path / "alone"), training(toybench, steps=2), **options)
    shared, alone = (json.loads((folder / "report.json").read_text()) for folder in (out, tmp_path / "alone"))
    assert list(shared["tasks"]) == TASKS
    assert shared["methods"] == alone["methods"]
    assert shared["hours"].keys() == {"scorer"}


def test_a_plan_adds_up_what_tasks_and_scorers_cost() -> None:
    """Two scorers of 10 steps; the pairs of the second task have half the characters of the first's."""
    trial = Trial(prepare=0.5, start=2.0, step=1.0, pair=0.1, memory=100.0, storage=8.0, stored=2**20)
    loads = {"long": TaskLoad(4, 20, 200.0, 2**20), "short": TaskLoad(2, 40, 100.0, 2**20)}
    trainings = dict.fromkeys("ab", ScorerTraining(steps=10))
    plan = plan_adaptation(loads, dict.fromkeys("ab", trial), trainings, keep=True)
    assert plan.seconds == {"long": 2 * (2 + 2 + 10 + 2), "short": 2 * (2 + (1 + 10 + 4) / 2)}
    assert (plan.hours(1) * 3600, plan.hours(2) * 3600) == pytest.approx((51, 32))
    assert plan.disk["store of pairs"] == 2 * (4 + 2)
    assert plan.disk["scorers"] == 2 * 2 * 8.0
    assert "scorers" not in plan_adaptation(loads, {"a": trial}, trainings, keep=False).disk


def test_a_plan_is_printed_before_anything_is_trained(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark, out = NaturalInstructions(str(toybench)), tmp_path / "out"
    file = answers(benchmark, TASKS, tmp_path / "samples.jsonl", wrong="zebra")
    options: dict[str, Any] = {"test_examples": 4, "tasks": TASKS, "variants": {"ranked": {"loss": "pairwise"}}}
    adapt_tasks(benchmark, [file], str(out), training(toybench), plan=True, **options)
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 tasks to adapt, 0 are finished; 60 training instances, 24 responses to choose among, 2 scorers" in printed
    assert (
        "hours by the number of devices like this one (processes of torchrun, srun or a job array): 1: 0.0" in printed
    )
    assert "ranked" in printed
    assert "store of pairs" in printed
    assert not out.exists()


def test_sampled_instances_that_are_not_tested_are_counted(
    toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 130 instances of a task have responses, and the first 8 are tested."""
    benchmark = NaturalInstructions(str(toybench))
    file = answers(benchmark, TASKS[:1], tmp_path / "samples.jsonl", wrong="zebra")
    tested = SampledExamples(benchmark, parts=["test"], tasks=TASKS[:1], validation_examples=0, test_examples=8)
    select_samples(tested, [file], str(tmp_path / "out"))
    assert "8 of 130 sampled instances were tested" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/selection.json").read_text())["untested"] == 122
