"""Calibration: a monotone map from a scorer's scores to the correctness to expect, fitted on held-out examples.

A scorer is trained to rank; its scores are not probabilities, and under a ranking loss they have no level at all. The
map is isotonic regression (Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass
probability estimates"): the monotone map of least squares. It was chosen over Platt's sigmoid because it estimates a
mean of any labels, here ROUGE-L, and assumes no shape; 17 responses an example are enough points for it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datamodules.data_files import read_json
from ...datamodules.messages import expanded
from ...datamodules.whole_files import write_whole

Values = NDArray[np.float64]

FILE = "calibration.json"
"""Name of the calibration's file in a scorer's folder."""


class Calibration(NamedTuple):
    """A piecewise linear map from scores to correctness, constant outside its knots.

    Args:
        scores: The knots, increasing.
        correctness: The expected correctness at each knot, never decreasing, in [0, 1].
    """

    scores: list[float]
    correctness: list[float]

    def __call__(self, scores: Values) -> Values:
        """The expected correctness [n] of scores [n]."""
        return np.interp(scores, self.scores, self.correctness)

    def save(self, folder: Path) -> None:
        """Write it to a scorer's folder."""
        write_whole(folder / FILE, json.dumps(self._asdict()))


def load_calibration(folder: str) -> Calibration | None:
    """The calibration in a scorer's folder; None if there is none.

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
    """A calibration that was read back.

    Raises:
        ValueError: Its knots are no numbers, not in order, or not in [0, 1].
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
    """Isotonic regression of correctness on scores, by scikit-learn.

    >>> fit_calibration(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.5, 1.0]))
    Calibration(scores=[1.0, 2.0, 3.0, 4.0], correctness=[0.0, 0.75, 0.75, 1.0])

    Args:
        scores: float64 [n].
        correctness: float64 [n], in [0, 1].

    Raises:
        ValueError: There are no scores, or not as many labels as scores.
    """
    if len(scores) == 0 or len(scores) != len(correctness):
        raise ValueError(f"a calibration needs as many scores as labels, got {len(scores)} and {len(correctness)}")
    from sklearn.isotonic import IsotonicRegression  # takes seconds to import

    regression = IsotonicRegression().fit(scores, correctness)
    return Calibration(regression.X_thresholds_.tolist(), regression.y_thresholds_.tolist())


def calibration_error(expected: Values, correctness: Values, bins: int = 10) -> float:
    """Expected calibration error in [0, 1]: the mean gap between expected and actual correctness over equal-width bins.

    Bins are weighted by the number of their values (Guo et al., arXiv 1706.04599, equation 3).

    >>> calibration_error(np.array([0.95, 0.95, 0.25, 0.25]), np.array([1.0, 0.5, 0.25, 0.25]))
    0.1
    """
    bin_of = np.minimum((expected * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=expected - correctness, minlength=bins)
    return round(float(np.abs(gaps).sum()) / len(expected), 12)
