"""Runs of several seeds as one table."""

from typing import Any

import pytest

from crosstask.callbacks.report.adaptation_seeds import seed_table


def report(scorer: float, *, oracle: float = 0.9, **more: float) -> dict[str, Any]:
    means = {"beam": 0.4, "scorer": scorer, **more, "oracle": oracle}
    gain = {"mean": scorer - 0.4, "low": scorer - 0.45, "high": scorer - 0.35}
    scorers = [name for name in means if name not in ("beam", "oracle")]
    return {
        "methods": {name: {"mean": mean, "low": mean - 0.05, "high": mean + 0.05} for name, mean in means.items()},
        "tasks": {"task1": means},
        "instances": 7,
        "best_single": "beam",
        "gains": dict.fromkeys(means, gain),
        "scorers": {name: {"recovered": (scorer - 0.4) / 0.5, "spearman": None} for name in scorers},
        "sizes": {"1": {"beam": 0.4, "scorer": scorer - 0.1}, "17": means},
    }


def row(table: str, name: str) -> str:
    (found,) = {line for line in table.splitlines() if line.startswith(f"{name}  ") and "[" in line}
    return " ".join(found.split())


def test_what_the_scorer_decides_varies_seed_table_and_nothing_else_does() -> None:
    """0.5, 0.6 and 0.7 have a standard deviation of 0.1; t(0.975, 2) is 4.303: 60 ± 4.303 · 10 / √3."""
    table = seed_table([report(0.5, reward=0.8), report(0.6), report(0.7)])
    assert row(table, "scorer") == "scorer 60.0 [35.2, 84.8] seeds"
    assert row(table, "beam") == "beam 40.0 [35.0, 45.0] instances"
    assert "scorer over beam, each seed: +10.0 [+5.0, +15.0], +20.0 [+15.0, +25.0], +30.0 [+25.0, +35.0]" in table
    assert "recovered of (oracle - beam): 20.0%, 40.0%, 60.0%" in table
    assert "reward" not in table  # only one seed has it
    lines = [line.split() for line in table.splitlines()]
    assert ["task1", "40.0", "60.0", "90.0"] in lines
    assert ["number", "of", "responses", "1", "17"] in lines
    assert ["scorer", "50.0", "60.0"] in lines
    assert ["oracle", "90.0"] in lines  # of one response it is not in the report


def test_one_seed_has_no_interval_seed_table() -> None:
    assert row(seed_table([report(0.5)]), "scorer") == "scorer 50.0 [45.0, 55.0] instances"


def test_other_responses_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"run 1 has other tasks or other responses than run 0, e\.g\. of task1"):
        seed_table([report(0.5), report(0.5, oracle=0.8)])
