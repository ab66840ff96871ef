"""Calibration: a monotone map from a scorer's scores to expected correctness, fitted on held-out examples.

A scorer is trained to rank. Its scores are no probabilities, and under a ranking loss they have no absolute level. The
map is isotonic regression (Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass
probability estimates"): the monotone map with the least squared error. Unlike Platt's sigmoid it estimates a mean of
any labels, here ROUGE-L, and assumes no shape; 17 responses per example are enough points for it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datamodules.atomic_files import write_whole
from ...datamodules.data_files import read_json
from ...datamodules.messages import expanded

Values = NDArray[np.float64]

FILE = "calibration.json"
"""Name of the calibration's file in a scorer's folder."""


class Calibration(NamedTuple):
    """A piecewise linear map from scores to expected correctness, constant beyond its first and last knot.

    Args:
        scores: Scores of the knots, in ascending order.
        correctness: Expected correctness in [0, 1] at each knot, never decreasing.
    """

    scores: list[float]
    correctness: list[float]

    def __call__(self, scores: Values) -> Values:
        """Return the expected correctness [n] of scores [n]."""
        return np.interp(scores, self.scores, self.correctness)

    def save(self, folder: Path) -> None:
        """Write the calibration into a scorer's folder."""
        write_whole(folder / FILE, json.dumps(self._asdict()))


def load_calibration(folder: str) -> Calibration | None:
    """Return the calibration in a scorer's folder; None if there is none.

    Raises:
        ValueError: The file holds no calibration.
    """
    path = expanded(folder) / FILE
    if not path.is_file():
        return None
    try:
        return checked_calibration(read_json(path))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} holds no calibration ({error}): fit it again, or remove it") from error


def checked_calibration(record: Any) -> Calibration:
    """Return a calibration from its stored fields.

    Raises:
        ValueError: Its knots are not numbers, not in order, or not in [0, 1].
    """
    calibration = Calibration(**record)
    scores, correctness = (np.array(knots, dtype=np.float64) for knots in calibration)
    shape = scores.shape == correctness.shape and scores.ndim == 1 and scores.size
    if not shape or not np.isfinite([scores, correctness]).all() or (np.diff(scores) < 0).any():
        raise ValueError("expected as many finite scores, in order, as values of correctness")
    if correctness.min() < 0 or correctness.max() > 1:
        raise ValueError("correctness is in [0, 1]")
    return calibration


def fit_calibration(scores: Values, correctness: Values) -> Calibration:
    """Return the isotonic regression of correctness on scores, computed by scikit-learn.

    >>> fit_calibration(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.5, 1.0]))
    Calibration(scores=[1.0, 2.0, 3.0, 4.0], correctness=[0.0, 0.75, 0.75, 1.0])

    Args:
        scores: float64 [n], scores of responses.
        correctness: float64 [n], labels of the same responses in [0, 1].

    Raises:
        ValueError: There are no scores, or not as many labels as scores.
    """
    if len(scores) == 0 or len(scores) != len(correctness):
        raise ValueError(f"a calibration needs as many scores as labels, got {len(scores)} and {len(correctness)}")
    from sklearn.isotonic import IsotonicRegression  # takes seconds to import

    regression = IsotonicRegression().fit(scores, correctness)
    return Calibration(regression.X_thresholds_.tolist(), regression.y_thresholds_.tolist())


def calibration_error(expected: Values, correctness: Values, bins: int = 10) -> float:
    """Return the expected calibration error in [0, 1]: the mean gap between expected and actual correctness over bins.

    Bins have equal widths, and are weighted by their number of values (Guo et al., arXiv 1706.04599, equation 3).

    >>> calibration_error(np.array([0.95, 0.95, 0.25, 0.25]), np.array([1.0, 0.5, 0.25, 0.25]))
    0.1

    Args:
        expected: float64 [n], estimated correctness in [0, 1].
        correctness: float64 [n], actual correctness in [0, 1].
        bins: Number of bins.
    """
    bin_of = np.minimum((expected * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=expected - correctness, minlength=bins)
    return round(float(np.abs(gaps).sum()) / len(expected), 12)
