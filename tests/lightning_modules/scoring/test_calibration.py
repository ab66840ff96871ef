"""What a score is worth: isotonic regression and the calibration error, against values worked out by hand."""

from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest

from crosstask.lightning_modules.scoring.calibration import (
    Calibration,
    calibration_error,
    fit_calibration,
    load_calibration,
)


def test_violators_are_pooled_back_to_the_first_block_that_fits() -> None:
    """3 and 2 pool to 2.5, with 1 to 2: that violates nothing; then 6 and 5 to 5.5 (in tenths)."""
    scores, labels = np.arange(6.0), np.array([1, 3, 2, 1, 6, 5]) / 10
    found = fit_calibration(scores, labels)
    assert found.scores == [0.0, 1.0, 3.0, 4.0, 5.0]
    np.testing.assert_allclose(found.correctness, [0.1, 0.2, 0.2, 0.55, 0.55])
    np.testing.assert_allclose(found(np.array([-5.0, 0.5, 2.0, 3.5, 9.0])), [0.1, 0.15, 0.2, 0.375, 0.55])


def test_no_other_monotone_map_has_smaller_squares() -> None:
    """Against every monotone map of five scores onto a grid of ninths."""
    labels = np.array([0.3, 0.9, 0.1, 0.5, 0.4])
    best = ((fit_calibration(np.arange(5.0), labels)(np.arange(5.0)) - labels) ** 2).sum()
    maps = np.array(list(combinations_with_replacement(np.linspace(0, 1, 10), 5)))
    assert 0 <= ((maps - labels) ** 2).sum(axis=1).min() - best < 0.02


def test_equal_scores_share_one_value_and_the_order_does_not_matter() -> None:
    scores, labels = np.array([2.0, 1.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0, 0.5])
    assert fit_calibration(scores, labels) == Calibration([1.0, 2.0], [0.25, 0.5])
    assert fit_calibration(scores[::-1], labels[::-1]) == Calibration([1.0, 2.0], [0.25, 0.5])


def test_a_score_that_ranks_backwards_is_worth_the_mean() -> None:
    found = fit_calibration(np.arange(4.0), np.array([1.0, 0.5, 0.5, 0.0]))
    assert found == Calibration([0.0, 3.0], [0.5, 0.5])


def test_nothing_to_fit_is_rejected() -> None:
    with pytest.raises(ValueError, match="got 0 and 0"):
        fit_calibration(np.array([]), np.array([]))


def test_a_calibration_lies_beside_its_scorer(tmp_path: Path) -> None:
    assert load_calibration(str(tmp_path)) is None
    fit_calibration(np.array([-1.5, 0.25]), np.array([0.0, 1.0])).save(tmp_path)
    assert load_calibration(str(tmp_path)) == Calibration([-1.5, 0.25], [0.0, 1.0])


def test_the_error_is_a_mean_of_gaps_weighed_by_bin() -> None:
    """Three of five values expect 0.75 and 2 of 3 are right; two expect 1.0 and 0.05: both are wrong."""
    expected, correct = np.array([0.75, 0.75, 0.75, 1.0, 0.05]), np.array([1.0, 1.0, 0.0, 0.0, 0.0])
    assert calibration_error(expected, correct) == pytest.approx((abs(2.25 - 2) + 1.0 + 0.05) / 5)
