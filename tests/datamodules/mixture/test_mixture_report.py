"""A mixture as a tree."""

import numpy as np
import pytest

from crosstask.datamodules.mixture.mixture_report import mixture_report
from crosstask.datamodules.mixture.proportions import MixtureRules, TaskSize, task_rates

TASKS = [
    TaskSize("flan/a", "flan", "QA", 100, tokens=50.0),
    TaskSize("flan/b", "flan", "NLI", 300, tokens=10.0),
    TaskSize("sni/c", "sni", "QA", 1600, tokens=20.0),
]


def test_every_node_sums_what_is_below_it() -> None:
    report = mixture_report(TASKS, np.array([0.2, 0.3, 0.5]), draws=1000)
    assert [(node.name, node.depth) for node in report.nodes] == [
        ("all", 0),
        ("flan", 1),
        ("QA", 2),
        ("flan/a", 3),
        ("NLI", 2),
        ("flan/b", 3),
        ("sni", 1),
        ("QA", 2),
        ("sni/c", 3),
    ]
    whole, flan = report.nodes[0], report.nodes[1]
    assert (whole.examples, whole.rate, whole.draws, whole.epochs, whole.tokens) == (2000, 1.0, 1000.0, 0.5, 23_000.0)
    assert (flan.examples, flan.rate, flan.draws, flan.epochs, flan.tokens) == (400, 0.5, 500.0, 1.25, 13_000.0)
    assert report.warnings == []


def test_rates_that_round_to_nothing_are_warned_of() -> None:
    rates = task_rates(TASKS, MixtureRules(proportions={"flan": 0.01, "sni": 0.99}))
    (warning,) = mixture_report(TASKS, rates, draws=100).warnings
    assert warning.startswith(
        "1 of 3 tasks are drawn less than half a time in 100 draws, that is, hardly ever: flan/a;"
    )
    assert mixture_report(TASKS, rates, draws=1000).warnings == []


def test_a_task_that_is_drawn_many_times_over_is_warned_of() -> None:
    tasks = [TaskSize("mine/few", "mine", "a", 26), TaskSize("flan/a", "flan", "b", 100_000)]
    rates = task_rates(tasks, MixtureRules(proportions={"mine": 0.5, "flan": 0.5}))
    (warning,) = mixture_report(tasks, rates, draws=2 * 26 * 226).warnings
    assert warning == (
        "1 of 2 tasks are drawn more than 20 times over: mine/few (226 times over 26 examples); give their benchmark a "
        "smaller share (mixture.proportions, mixture.extra), raise mixture.cap, or train fewer steps"
    )
    assert mixture_report(tasks, rates, draws=2 * 26 * 20).warnings == []


@pytest.mark.parametrize(
    ("sizes", "way"), [([26], "train fewer steps"), ([26, 30], "raise mixture.cap, or train fewer steps")]
)
def test_a_task_without_others_that_gain_is_told_what_helps(sizes: list[int], way: str) -> None:
    tasks = [TaskSize(f"task{size}", "mine", "a", size) for size in sizes]
    (warning,) = mixture_report(tasks, task_rates(tasks, MixtureRules()), draws=10_000).warnings
    assert warning.partition("; ")[2] == way


def test_it_prints_in_columns() -> None:
    lines = mixture_report(TASKS, np.array([0.2, 0.3, 0.5]), draws=1000).lines(depth=1)
    assert lines == [
        "mixture  examples      rate  draws  epochs  tokens",
        "all         2,000  100.000%  1,000     0.5  23,000",
        "  flan        400   50.000%    500    1.25  13,000",
        "  sni       1,600   50.000%    500   0.312  10,000",
    ]
