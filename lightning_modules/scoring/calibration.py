"""From a score to the correctness that is to be expected of it: a monotone map, fitted on held-out examples.

A scorer ranks; what its scores are worth as numbers is another matter, and under a ranking loss they have no level at
all. The map is isotonic regression (Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass
probability estimates"): of all monotone maps the one of least squares. It was chosen over Platt's sigmoid because it
estimates a mean of any labels, here ROUGE-L, and assumes no shape; and 17 answers an example are enough points for it.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

FILE = "calibration.json"
"""Where it lies in a scorer's folder."""


class Calibration(NamedTuple):
    """A map from scores to correctness: linear between known places, constant outside.

    Args:
        scores: Increasing.
        correctness: What is expected at each, never decreasing, in [0, 1].
    """

    scores: list[float]
    correctness: list[float]

    def __call__(self, scores: Values) -> Values:
        """The expected correctness of scores."""
        return np.interp(scores, self.scores, self.correctness)

    def save(self, folder: Path) -> None:
        """Write it beside a scorer."""
        (folder / FILE).write_text(json.dumps(self._asdict()))


def load_calibration(folder: str) -> Calibration | None:
    """The calibration that lies beside a scorer; None where there is none."""
    path = Path(folder) / FILE
    return Calibration(**json.loads(path.read_text())) if path.is_file() else None


def fit_calibration(scores: Values, correctness: Values) -> Calibration:
    """Isotonic regression of correctness on scores, by pooling adjacent violators.

    Neighbours whose means decrease are pooled into one block with their common mean, until none do. A block is constant
    from its first score to its last, as in scikit-learn.

    >>> fit_calibration(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.5, 1.0]))
    Calibration(scores=[1.0, 2.0, 3.0, 4.0], correctness=[0.0, 0.75, 0.75, 1.0])

    Args:
        scores: float64 [n].
        correctness: float64 [n], in [0, 1].

    Raises:
        ValueError: There is nothing to fit.
    """
    if len(scores) == 0 or len(scores) != len(correctness):
        raise ValueError(f"a calibration needs as many scores as labels, got {len(scores)} and {len(correctness)}")
    places, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=correctness) / counts
    blocks: list[tuple[float, int, float, float]] = []  # mean, weight, first score, last score
    for mean, weight, place in zip(means.tolist(), counts.tolist(), places.tolist(), strict=True):
        block = (mean, weight, place, place)
        while blocks and blocks[-1][0] >= block[0]:
            before = blocks.pop()
            total = before[1] + block[1]
            block = ((before[0] * before[1] + block[0] * block[1]) / total, total, before[2], block[3])
        blocks.append(block)
    ends = [(place, mean) for mean, _, first, last in blocks for place in dict.fromkeys((first, last))]
    return Calibration([place for place, _ in ends], [mean for _, mean in ends])


def calibration_error(expected: Values, correctness: Values, bins: int = 10) -> float:
    """Expected calibration error: how far expected and mean correctness lie apart in bins of equal width.

    The mean over bins of their difference, each weighing as many values as it holds (Guo et al., arXiv 1706.04599,
    equation 3).

    >>> calibration_error(np.array([0.95, 0.95, 0.25, 0.25]), np.array([1.0, 0.5, 0.25, 0.25]))
    0.1
    """
    bin_of = np.minimum((expected * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=expected - correctness, minlength=bins)
    return round(float(np.abs(gaps).sum()) / len(expected), 12)
