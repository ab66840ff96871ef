"""How sizes and proportions become rates."""

from typing import Any

import numpy as np
import pytest

from crosstask.datamodules.mixture.proportions import (
    ExtraStream,
    MixtureRules,
    TaskSize,
    absent_benchmarks,
    task_rates,
)

TASKS = [
    TaskSize("flan/a", "flan", "QA", 100),
    TaskSize("flan/b", "flan", "NLI", 300),
    TaskSize("sni/c", "sni", "QA", 50),
    TaskSize("sni/d", "sni", "QA", 50),
    TaskSize("sni/e", "sni", "NLI", 9_900),
    TaskSize("t5/f", "t5", "QA", 100),
]


def by_name(rules: MixtureRules, tasks: list[TaskSize] = TASKS) -> dict[str, float]:
    return dict(zip([task.name for task in tasks], task_rates(tasks, rules).round(12).tolist(), strict=True))


def sized(**sizes: int) -> list[TaskSize]:
    return [TaskSize(name, "", "", examples) for name, examples in sizes.items()]


def by_benchmark(rules: MixtureRules, tasks: list[TaskSize] = TASKS) -> dict[str, float]:
    found: dict[str, float] = {}
    for task, rate in zip(tasks, task_rates(tasks, rules), strict=True):
        found[task.benchmark] = found.get(task.benchmark, 0.0) + rate
    return {name: round(rate, 12) for name, rate in found.items()}


def test_a_cap_counts_at_most_so_many_examples_of_a_task() -> None:
    assert by_name(MixtureRules(300), sized(a=100, b=900, c=500)) == {
        "a": 0.142857142857,
        "b": 0.428571428571,
        "c": 0.428571428571,
    }
    assert by_name(MixtureRules(), sized(a=1, b=3)) == {"a": 0.25, "b": 0.75}


@pytest.mark.parametrize(
    ("sizes", "cap", "said"),
    [({"a": 1}, 0, "cap must be a positive"), ({}, 5, "at least one task"), ({"a": 1, "b": 0}, 5, r"no examples.*b")],
)
def test_impossible_rates_are_rejected(sizes: dict[str, int], cap: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        task_rates(sized(**sizes), MixtureRules(cap))


def test_proportions_share_examples_between_benchmarks_and_sizes_within() -> None:
    rates = by_name(MixtureRules(cap=200, proportions={"flan": 0.3, "sni": 0.6, "t5": 0.1}))
    assert rates == {"flan/a": 0.1, "flan/b": 0.2, "sni/c": 0.1, "sni/d": 0.1, "sni/e": 0.4, "t5/f": 0.1}


def test_who_is_not_named_shares_what_is_left_by_capped_size() -> None:
    # capped sizes: flan 300, t5 100
    shares = by_benchmark(MixtureRules(cap=200, proportions={"sni": 0.2}))
    assert shares == {"flan": 0.6, "sni": 0.2, "t5": 0.2}


@pytest.mark.parametrize(
    ("proportions", "said"),
    [
        ({"flan": 0.5, "sni": 0.6}, "sum to 1, got 1.1 for flan, sni"),
        ({"flan": 0.5, "sni": 0.2, "t5": 0.2}, "sum to 1, got 0.9 .* no benchmark is left"),
        ({"flan": 0.5, "sni": 0.5}, "leave nothing for t5: name each with its share"),
        ({"flann": 0.5}, r"proportions names flann \(nearest: flan\), which has no training tasks here"),
        ({"flan": -0.5}, "finite and not negative: flan"),
        ({"flan": float("nan")}, "finite and not negative: flan"),
    ],
)
def test_proportions_that_do_not_add_up_are_rejected(proportions: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        task_rates(TASKS, MixtureRules(proportions=proportions))


def test_the_paper_reads_one_percent_for_one_percent_of_examples() -> None:
    """OPT-IML's final mixture: seven proportions, 5% pre-training that all pay, 1% reasoning that PromptSource pays."""
    names = ["crossfit", "exmix", "flan", "sni", "promptsource", "t5", "unifiedskg", "pretraining", "reasoning"]
    tasks = [TaskSize(f"{name}/x", name, "c", 1000) for name in names]
    proportions = dict(zip(names, [0.04, 0.02, 0.20, 0.25, 0.45, 0.02, 0.02], strict=False))
    extra = {"pretraining": ExtraStream(0.05), "reasoning": ExtraStream(0.01, paid_by="promptsource")}
    shares = by_benchmark(MixtureRules(4096, proportions, extra), tasks)
    assert shares == {
        "crossfit": 0.038,
        "exmix": 0.019,
        "flan": 0.19,
        "sni": 0.2375,
        "promptsource": 0.4175,  # 0.45 * 0.95 - 0.01
        "t5": 0.019,
        "unifiedskg": 0.019,
        "pretraining": 0.05,
        "reasoning": 0.01,
    }


@pytest.mark.parametrize("unit", ["rows", "tokens"])
@pytest.mark.parametrize("paid_by", [None, "flan"])
def test_a_share_counts_what_it_says(unit: Any, paid_by: str | None) -> None:
    """Pre-training documents are ten times as long: 5% of tokens are far fewer examples."""
    tasks = [
        TaskSize("flan/a", "flan", "QA", 100, tokens=200.0, rows=0.1),
        TaskSize("flan/b", "flan", "QA", 300, tokens=100.0, rows=0.05),
        TaskSize("sni/c", "sni", "QA", 100, tokens=300.0, rows=0.15),
        TaskSize("text/t", "text", "text", 9, tokens=2000.0, rows=1.0),
        TaskSize("talk/t", "talk", "talk", 9, tokens=400.0, rows=0.2),
    ]
    extra = {"text": ExtraStream(0.05, unit, paid_by), "talk": ExtraStream(0.02, "examples")}
    rates = task_rates(tasks, MixtureRules(proportions={"flan": 0.4, "sni": 0.6}, extra=extra))
    weights = rates * np.array([getattr(task, unit) for task in tasks])
    assert weights[3] / weights.sum() == pytest.approx(0.05)
    assert rates[4] == pytest.approx(0.02)
    assert rates.sum() == pytest.approx(1.0)
    assert rates[3] < 0.01
    if paid_by is None:
        assert (rates[0] + rates[1]) / rates[2] == pytest.approx(0.4 / 0.6)
    else:
        assert rates[2] == pytest.approx(0.6 * 0.98)  # only the talk is paid by all


def test_extra_streams_that_cannot_be_paid_are_rejected() -> None:
    rules = MixtureRules(proportions={"flan": 0.005, "sni": 0.995}, extra={"t5": ExtraStream(0.01, paid_by="flan")})
    with pytest.raises(ValueError, match="flan cannot pay for the extra streams"):
        task_rates(TASKS, rules)
    with pytest.raises(ValueError, match="'t5' is paid by 'flam'; nearest: flan"):
        task_rates(TASKS, MixtureRules(extra={"t5": ExtraStream(0.01, paid_by="flam")}))
    with pytest.raises(ValueError, match="t5 are in proportions and in extra"):
        MixtureRules(proportions={"t5": 0.1}, extra={"t5": ExtraStream(0.1)})


def test_all_pay_for_a_stream_whose_payer_is_absent() -> None:
    proportions = {"sni": 0.5, "flan": 0.2, "crossfit": 0.3}
    by_crossfit = MixtureRules(
        proportions=proportions, extra={"t5": ExtraStream(0.1, paid_by="crossfit")}, absent="shared"
    )
    by_all = MixtureRules(proportions=proportions, extra={"t5": ExtraStream(0.1)}, absent="shared")
    assert task_rates(TASKS, by_crossfit) == pytest.approx(task_rates(TASKS, by_all))
    extra = {"t5": ExtraStream(0.1, paid_by="crossfits")}
    with pytest.raises(ValueError, match="'t5' is paid by 'crossfits'"):
        task_rates(TASKS, MixtureRules(proportions=proportions, extra=extra, absent="shared"))


def test_the_share_of_an_absent_benchmark_is_rejected_or_shared() -> None:
    proportions = {"flan": 0.3, "sni": 0.5, "t5": 0.1, "crossfit": 0.1}
    with pytest.raises(ValueError, match="proportions names crossfit"):
        task_rates(TASKS, MixtureRules(proportions=proportions))
    extra = {"text": ExtraStream(0.05)}
    shared = MixtureRules(proportions=proportions, extra=extra, absent="shared")
    assert by_benchmark(shared) == pytest.approx({"flan": 0.3 / 0.9, "sni": 0.5 / 0.9, "t5": 0.1 / 0.9})
    some = MixtureRules(proportions={"sni": 0.5, "crossfit": 0.2}, absent="shared")  # 0.3 are left for flan and t5
    assert by_benchmark(some) == pytest.approx({"flan": 0.3 / 0.8 * 0.8, "sni": 0.5 / 0.8, "t5": 0.3 / 0.8 * 0.2})
    assert absent_benchmarks(shared, {"flan", "sni", "t5"}) == ["crossfit", "text"]
    with pytest.raises(ValueError, match=r"sum to 1, got 0\.9"):
        task_rates(TASKS, MixtureRules(proportions=proportions | {"crossfit": 0.0}, absent="shared"))


def test_temperature_flattens_within_a_benchmark() -> None:
    rates = by_name(MixtureRules(proportions={"flan": 0.5, "sni": 0.4, "t5": 0.1}, temperature=2))
    assert rates["flan/b"] / rates["flan/a"] == pytest.approx(3**0.5)
    assert rates["flan/a"] + rates["flan/b"] == pytest.approx(0.5)


def test_categories_may_be_drawn_equally_often() -> None:
    rates = by_name(MixtureRules(proportions={"flan": 0.0, "sni": 1.0, "t5": 0.0}, uniform_categories=True))
    assert rates == {"flan/a": 0.0, "flan/b": 0.0, "sni/c": 0.25, "sni/d": 0.25, "sni/e": 0.5, "t5/f": 0.0}
