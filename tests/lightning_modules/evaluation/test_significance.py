"""Intervals and differences: tables of Student's t, the normal approximation, and worked examples."""

import numpy as np
import pytest

from crosstask.lightning_modules.evaluation.aggregation import ScoredInstance, columns, selection_score, task_scores
from crosstask.lightning_modules.evaluation.significance import (
    Resampling,
    average_runs,
    difference,
    interval,
    paired_differences,
    require_single,
    seed_interval,
)


def instances(task: str, scores: list[float], category: str = "c", shots: int = 0) -> list[ScoredInstance]:
    return [
        ScoredInstance("b", task, None, category, "fully_held_out", shots, "rouge_l", str(i), score, score, 0.0)
        for i, score in enumerate(scores)
    ]


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (7, 2.3646), (30, 2.0423), (500, 1.9647)])
def test_the_interval_over_runs_takes_the_printed_quantiles_of_student_s_t(degrees: int, quantile: float) -> None:
    means = np.linspace(0, 1, degrees + 1)
    estimate = seed_interval(means.tolist(), count=1)
    assert estimate.high - estimate.mean == pytest.approx(quantile * means.std(ddof=1) / (degrees + 1) ** 0.5, rel=2e-5)


def test_the_interval_over_runs() -> None:
    found = seed_interval([0.4, 0.5, 0.6], count=100)  # standard error 0.1 / sqrt(3)
    assert found.mean == pytest.approx(0.5)
    assert found.high - found.mean == pytest.approx(4.3027 * 0.1 / 3**0.5, abs=1e-5)
    assert (found.count, found.runs) == (100, (0.4, 0.5, 0.6))
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        seed_interval([0.4], count=1)


def test_the_interval_of_a_mean_of_means_is_that_of_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    large, small = rng.random(1600), rng.random(100)
    rows = instances("large", large.tolist()) + instances("small", small.tolist())
    resampled = selection_score(columns(task_scores(rows, Resampling(4000))))
    assert isinstance(resampled, np.ndarray)
    found = interval(resampled, len(rows))
    # Each task weighs a half, however many instances it has.
    half_width = 1.96 * np.sqrt(large.var() / 1600 / 4 + small.var() / 100 / 4)
    assert found.mean == pytest.approx((large.mean() + small.mean()) / 2)
    assert found.low == pytest.approx(found.mean - half_width, abs=0.1 * half_width)
    assert found.high == pytest.approx(found.mean + half_width, abs=0.1 * half_width)


def of(base: list[ScoredInstance], other: list[ScoredInstance]) -> np.ndarray:
    resampled = selection_score(columns(task_scores(paired_differences(base, other), Resampling())))
    assert isinstance(resampled, np.ndarray)
    return resampled


def test_a_difference_on_every_instance_is_sure_however_much_instances_differ() -> None:
    scores = np.linspace(0, 0.9, 10)
    base, other = instances("t", scores.tolist()), instances("t", (scores + 0.1).tolist())
    found = difference(of(base, other))
    assert found == pytest.approx((0.1, 0.1, 0.1, 2 / 1001))
    assert difference(of(base, base)) == (0.0, 0.0, 0.0, 1.0)
    assert difference(of(other, base)) == pytest.approx((-0.1, -0.1, -0.1, 2 / 1001))


def test_chance_is_called_significant_as_often_as_it_should() -> None:
    rng, found = np.random.default_rng(1), 0
    for _ in range(200):
        base, other = rng.random((2, 60))
        found += difference(of(instances("t", base.tolist()), instances("t", other.tolist()))).p < 0.05
    assert 2 <= found <= 20  # 10 of 200 are expected


def test_pairs_are_the_instances_that_both_systems_answered() -> None:
    base = instances("t", [0.5, 0.5, 0.5]) + instances("t", [1.0], shots=5)
    other = instances("t", [1.0]) + instances("u", [1.0]) + instances("t", [0.0], shots=5)
    assert [(row.task, row.id, row.shots, row.score) for row in paired_differences(base, other)] == [
        ("t", "0", 0, 0.5),
        ("t", "0", 5, -1.0),
    ]


def test_an_instance_is_averaged_over_the_runs_that_evaluated_it() -> None:
    first, second = average_runs([instances("t", [0.5, 1.0]), instances("t", [1.0])])
    assert (first.id, first.score, first.rouge_l) == ("0", 0.75, 0.75)
    assert (second.id, second.score) == ("1", 1.0)


def test_systems_whose_seeds_hold_out_other_instances_are_compared_on_all_of_them() -> None:
    base, other = ([instances("t", scores)[:1], instances("t", scores)[1:]] for scores in ([0.0, 0.5], [1.0, 0.75]))
    pairs = paired_differences(average_runs(base), average_runs(other))
    assert [(row.id, row.score) for row in pairs] == [("0", 1.0), ("1", 0.25)]


def test_an_instance_that_stands_twice_is_rejected() -> None:
    require_single(instances("t", [0.0]) + instances("t", [0.0], shots=5), "here")
    with pytest.raises(ValueError, match="here holds 2 predictions for instance '0' of b t at 0 shots"):
        require_single(instances("t", [0.0]) + instances("t", [1.0]), "here")
