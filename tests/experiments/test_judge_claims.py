"""The papers' claims: the interval and the rule of a verdict, what is read from runs, and the page."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from claims_benchmark import write_claims_benchmark
from claims_results import CLAIMS, SWEEPS, Results, arm_of, read_sweep_runs, to_text, ways_to_choose
from judge_claims import (
    PAGE,
    Claim,
    claims_page,
    declared_groups,
    judge,
    page,
    paired_interval,
    read_results,
    shared_runs,
)

from crosstask.commands.shared.config_names import composed_settings
from crosstask.commands.shared.sweep_declarations import folder_name, read_sweep
from crosstask.commands.sweep import run_sweep

DECLARED = [(group["experiment"], Claim(**fields)) for group in declared_groups() for fields in group["claims"]]


def test_the_interval_covers_other_tasks_and_other_seeds() -> None:
    # Means of tasks 1 and 3, of seeds 1 and 3: each has variance 2, so each squared error is 2 / 2. The sum has
    # 2**2 / (1 + 1) = 2 degrees of freedom, whose 97.5% quantile is 4.3027.
    crossed = paired_interval(np.array([[0.0, 2.0], [2.0, 4.0]]))
    assert crossed[:3] == pytest.approx((2, 2 - 4.302653 * 2**0.5, 2 + 4.302653 * 2**0.5))
    one_seed = paired_interval(np.array([[1.0, 3.0]]))  # the quantile with 1 degree of freedom
    assert one_seed[:3] == pytest.approx((2, 2 - 12.706205, 2 + 12.706205))
    assert one_seed.p == pytest.approx(0.295167)  # t = 2: 1 - 2 / pi * arctan(2)
    assert paired_interval(np.array([[1.0], [3.0]])) == pytest.approx(one_seed)
    assert paired_interval(np.full((3, 4), 0.5)) == (0.5, 0.5, 0.5, 0)
    with pytest.raises(ValueError, match="one difference has no interval"):
        paired_interval(np.array([[1.0]]))


RESULTS = Results(
    levels={"copy": "fully_supervised", "sort": "partially_supervised", "find": "fully_held_out"},
    systems={
        "tuned, 0-shot": {
            0: {"copy": 90.0, "sort": 40.0, "find": 30.0},
            1: {"copy": 90.0, "sort": 42.0, "find": 31.0},
            2: {"copy": 0.0, "sort": 0.0, "find": 0.0},  # a seed that the other system lacks
        },
        "untuned, 0-shot": {
            0: {"find": 10.0, "sort": 20.0, "copy": 90.0},  # in another order
            1: {"find": 11.0, "sort": 20.0, "copy": 90.0},
        },
    },
    hours={"tuned": 0.5, "untuned": 0.25},
)


def test_a_claim_is_judged_on_shared_tasks_and_seeds() -> None:
    judged = judge(Claim("tuning helps", "1, 2", "tuned, 0-shot", "untuned, 0-shot"), RESULTS)
    assert (judged.lower, judged.higher, judged.difference.mean) == (15.25, 35.75, 20.5)
    assert (judged.tasks, judged.seeds, judged.hours) == (2, (0, 1), 0.75)  # copy trains
    assert judged.by_level == {"partially_supervised": 21.0, "fully_held_out": 20.0}
    assert judged.verdict == "holds"
    assert judge(Claim("it hurts", "", "untuned, 0-shot", "tuned, 0-shot"), RESULTS).verdict == "does not hold"
    everywhere = judge(Claim("it helps", "", "tuned, 0-shot", "untuned, 0-shot", tasks="all"), RESULTS)
    assert (everywhere.tasks, everywhere.verdict) == (3, "not decided")  # nothing on one of three tasks
    with pytest.raises(ValueError, match="no results of 'tuned, 2-shot'"):
        judge(Claim("it helps", "", "tuned, 2-shot", "untuned, 0-shot"), RESULTS)


def test_the_page_counts_verdicts_and_names_claims_without_runs(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(to_text(RESULTS))
    assert read_results(tmp_path / "small.json") == RESULTS
    claims = [
        {
            "claim": "A",
            "published": "1, 2",
            "higher": "tuned, 0-shot",
            "lower": "untuned, 0-shot",
            "remark": "As tuned.",
        },
        {"claim": "B", "published": "1, 2", "higher": "larger, 0-shot", "lower": "untuned, 0-shot"},
    ]
    group = {"paper": "P", "arxiv": "1", "experiment": "small", "command": "run", "claims": claims}
    text = page([group], tmp_path, "# Claims\n{summary}")
    assert "Of 1 claims, 1 hold, 0 do not hold, 0 are not decided." in text
    assert "| 1 | A | 1, 2 | 15.2, 35.8: +20.5 [" in text
    assert "| 2 | 0, 1 | **holds** | 0.75 |" in text
    assert "- 1: partially supervised +21.0, held out +20.0. As tuned." in text
    assert "Not run yet: B." in text


def test_responses_are_chosen_as_cappy_does() -> None:
    responses = [
        {"decoding": "beam", "log_likelihood": -1.0, "rouge_l": 0.1, "scores": {"scorer": 0.2}},
        {"decoding": "nucleus", "log_likelihood": -3.0, "rouge_l": 0.2, "scores": {"scorer": 0.3}},
        {"decoding": "nucleus", "log_likelihood": -2.0, "rouge_l": 0.3, "scores": {"scorer": 0.3}},
        {"decoding": "top_k", "log_likelihood": None, "rouge_l": 0.4, "scores": {"scorer": 0.9}},
    ]
    chosen = {name: choose(responses) for name, choose in ways_to_choose(responses).items()}
    assert (chosen["model, beam"], chosen["model, nucleus"]) == (0.1, 0.2)
    assert (chosen["scorer, of all"], chosen["self-scoring, of all"]) == (0.4, 0.1)
    assert (chosen["scorer, of 1"], chosen["self-scoring, of 4"]) == (0.2, 0.3)
    assert chosen["scorer, of 4"] == 0.2  # the first of equal scores


@pytest.mark.parametrize("experiment", SWEEPS)
def test_claims_compare_arms_of_the_sweep(experiment: str) -> None:
    arms = read_sweep(str(CLAIMS / f"{experiment}.yaml")).arms
    compared = {arm_of(name) for of, claim in DECLARED if of == experiment for name in (claim.higher, claim.lower)}
    assert compared == set(arms), "every arm is compared, and nothing else"


ABLATIONS = {"17": "tasks", "18": "categories", "19": "pretraining", "8": "metaicl"}


def test_published_numbers_are_those_of_the_ablations() -> None:
    """The averages of OPT-IML's tables, which configs/papers/ablations repeat as well."""
    for experiment, claim in DECLARED:
        table = re.match(r"Table (\d+)", claim.published)
        if experiment in ("opt_iml", "number_of_tasks") and table and table[1] in ABLATIONS:
            published = read_sweep(f"papers/ablations/{ABLATIONS[table[1]]}").published
            assert published is not None
            averages = {score for columns in published.scores.values() for score in columns["Average"]}
            assert {float(number) for number in re.findall(r"\d+\.\d+", claim.published)} <= averages, claim


@pytest.mark.parametrize(("table", "name"), [("4", "caps"), ("5", "proportions"), ("20", "reasoning")])
def test_published_numbers_of_mixtures_are_cells_or_means_of_their_tables(table: str, name: str) -> None:
    published = read_sweep(f"papers/ablations/{name}").published
    assert published is not None
    cells = [list(columns.values()) for columns in published.scores.values()]
    shots = [[[scores[shot] for scores in arm if len(scores) > shot] for arm in cells] for shot in (0, 1)]
    known = {round(float(np.mean(arm)), 1) for of_shot in shots for arm in of_shot} if name == "caps" else set()
    known |= {score for of_shot in shots for arm in of_shot for score in arm}
    claims = [claim for experiment, claim in DECLARED if experiment == "mixtures"]
    texts = [claim.published for claim in claims if re.match(rf"Table {table}\b", claim.published)]
    assert texts
    for text in texts:
        assert {float(number) for number in re.findall(r"\d+\.\d+", text)} <= known, text


def test_claims_about_a_collection_compare_its_tasks() -> None:
    results = Results(
        levels={"narrow/a": "partially_supervised", "wide/b": "partially_supervised"},
        systems={name: {0: {"narrow/a": score, "wide/b": 0.0}} for name, score in (("x", 1.0), ("y", 2.0))},
    )
    assert shared_runs(Claim("", "", "y", "x", tasks="narrow/"), results) == ((0,), ["narrow/a"])


def test_the_page_is_the_programs() -> None:
    assert PAGE.read_text() == claims_page(), "run `python experiments/judge_claims.py`; the page is not edited by hand"


def trained_tasks(sweep: Path, arm: str) -> int:
    """Return the number of training tasks in an arm's checkpoint, with seed 0, without the extra stream."""
    checkpoint = torch.load(sweep / folder_name(arm) / "seed-0/checkpoints/last.ckpt", weights_only=True)
    names = checkpoint["InstructionTuningDataModule"]["training_stream"]["tasks"]["training tasks"]
    return sum(name.startswith("toy/") for name in names)


@pytest.mark.usefixtures("warm_python")
def test_two_claims_are_run_again_in_small(tmp_path: Path, tiny_model: dict[str, Any]) -> None:
    """More training tasks, zero-shot and few-shot: from the sweep to the verdict, with models that learn nothing."""
    write_claims_benchmark(tmp_path / "benchmark", instances=101)
    collections = composed_settings(str(CLAIMS / "opt_iml.yaml"))["settings"]["data.init_args"]["benchmark"][
        "init_args"
    ]
    collections["collections"]["toy"]["init_args"]["folder"] = str(tmp_path / "benchmark")
    stories = {"stories": str(tmp_path / "benchmark/pretraining/stories.jsonl")}
    collections["collections"]["pretraining"]["init_args"]["sources"] = stories
    data = {
        "benchmark": {"class_path": "Bench", "init_args": collections},
        "tokenizer": str(tmp_path / "benchmark/tokenizer"),
        "instances": {"test": 1},
        "evaluation": {"max_new_tokens": 2},
        "cache": str(tmp_path / "store"),
    }
    model = {"config": {**tiny_model, "num_hidden_layers": 1}, "optimizer": {"warmup": 1}}
    trainer = {"max_steps": 2, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    settings = {"trainer": trainer, "model": {"init_args": model}, "data": {"init_args": data}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    run_sweep(
        [str(CLAIMS / "opt_iml.yaml")],
        str(tmp_path / "runs"),
        settings=[str(tmp_path / "small.yaml")],
        arms=["base", "16 tasks"],
        seeds=[0],
    )
    results = read_sweep_runs(str(CLAIMS / "opt_iml.yaml"), tmp_path / "runs")
    assert results.hours.keys() == {"base", "16 tasks"}
    assert all(hours > 0 for hours in results.hours.values())
    assert {arm: trained_tasks(tmp_path / "runs", arm) for arm in results.hours} == {"base": 73, "16 tasks": 16}
    for _, claim in DECLARED[:2]:
        judged = judge(claim, results)
        assert (judged.tasks, judged.seeds) == (17, (0,))
        assert judged.verdict == "not decided"
