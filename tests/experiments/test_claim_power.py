"""The power of the claims' rule: published sample sizes, and a simulation with the rule itself."""

import numpy as np
import pytest
from claim_power import (
    Spread,
    power,
    seeds_for_these_tasks,
    seeds_needed,
    seeds_of_published,
    seeds_with_tasks,
    smallest_difference,
    spread_of,
    tasks_needed,
)
from judge_claims import paired_interval


def test_one_seed_is_the_paired_t_test() -> None:
    """Sample sizes of Cohen's d at 5%, two-sided, and a power of 80%, as G*Power and R's power.t.test give them."""
    unit = Spread(task=1.0, seed=None, rest=0.0)
    assert [tasks_needed(d, unit, seeds=1) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert power(0.5, unit, seeds=1, tasks=34) == pytest.approx(0.8078, abs=1e-4)
    assert power(0.0, unit, seeds=1, tasks=34) == pytest.approx(0.025)


@pytest.mark.parametrize("spread", [Spread(4.0, 1.0, 2.0), Spread(0.0, 2.0, 1.0), Spread(6.0, 0.0, 9.0)])
def test_power_is_the_share_of_simulated_experiments_that_hold(spread: Spread) -> None:
    generator, seeds, tasks, runs = np.random.default_rng(0), 5, 17, 1500
    assert spread.seed is not None
    held = 0
    for _ in range(runs):
        deviations = generator.normal(size=(1, tasks)) * spread.task**0.5 + generator.normal(size=(seeds, 1)) * (
            spread.seed**0.5
        )
        held += paired_interval(1.5 + deviations + generator.normal(size=(seeds, tasks)) * spread.rest**0.5).low > 0
    assert held / runs == pytest.approx(power(1.5, spread, seeds=seeds, tasks=tasks), abs=0.03)


def test_variances_are_found_again() -> None:
    generator, seeds, tasks = np.random.default_rng(1), 200, 300

    def of_variance(variance: float, count: int) -> np.ndarray:
        values = generator.normal(size=count)
        return (values - values.mean()) / values.std(ddof=1) * variance**0.5

    differences = of_variance(9.0, tasks) + of_variance(4.0, seeds)[:, None] + generator.normal(size=(seeds, tasks)) * 4
    assert spread_of(differences) == pytest.approx((9.0, 4.0, 16.0), rel=0.1)
    assert spread_of(differences[:1]).seed is None
    exact = np.array([[0.0, 2.0], [4.0, 6.0]])  # without a rest
    assert spread_of(exact) == pytest.approx((2.0, 8.0, 0.0))


def test_what_seeds_cannot_mend_needs_tasks() -> None:
    differing = Spread(task=100.0, seed=1.0, rest=1.0)
    assert seeds_needed(1.0, differing, tasks=17) is None
    tasks = tasks_needed(1.0, differing, seeds=20)
    assert tasks is not None
    assert power(1.0, differing, seeds=20, tasks=tasks) >= 0.8 > power(1.0, differing, seeds=20, tasks=tasks - 1)
    assert seeds_needed(1.0, Spread(0.0, 1.0, 0.0), tasks=17) == 10  # d = 1: published for the paired t test


def test_seeds_for_the_same_tasks_leave_the_tasks_deviation_out() -> None:
    differing = Spread(task=100.0, seed=3.0, rest=170.0)
    assert seeds_for_these_tasks(1.0, differing, tasks=170) == 34  # a variance of 3 + 1, d = 0.5
    assert seeds_for_these_tasks(1.0, Spread(1.0, None, 0.0), tasks=170) is None
    both = seeds_with_tasks(1.0, differing, 15)
    assert both is not None
    assert power(1.0, differing, seeds=both, tasks=15 * both) >= 0.8
    assert power(1.0, differing, seeds=both - 1, tasks=15 * (both - 1)) < 0.8
    shown = smallest_difference(differing, seeds=8, tasks=119)
    assert power(shown, differing, seeds=8, tasks=119) == pytest.approx(0.8)


def test_published_intervals_give_the_seeds_of_two_samples() -> None:
    """Sample sizes of Cohen's d for two groups, two-sided at 5% and 80%, as published: 64 and 26 a group."""
    half_width = 2.364624 / 8**0.5  # of 8 seeds with deviation 1
    assert seeds_of_published(0.5, [half_width, half_width], seeds=8) == 64
    assert seeds_of_published(0.8, [half_width, half_width], seeds=8) == 26
