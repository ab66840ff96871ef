"""Metrics of how well scores rank the responses of an example, gathered over processes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

Values = NDArray[np.floating]


def top_is_right(scores: Values, correctness: Values) -> float:
    """Return 1 if the best-scored response is right (correctness 1), else 0; among ties, the share that is right.

    A scorer with equal scores is therefore as good as chance, whatever the place of the right response.

    >>> top_is_right(np.array([0.2, 0.7, 0.1]), np.array([0.0, 1.0, 0.0]))
    1.0
    >>> top_is_right(np.array([0.5, 0.5, 0.1]), np.array([0.0, 1.0, 0.0]))
    0.5
    """
    return float((correctness[scores == scores.max()] == 1.0).mean())


def regret(scores: Values, correctness: Values) -> float:
    """Return the correctness of the best response minus that of the best-scored one; among ties, their mean.

    >>> regret(np.array([0.2, 0.7, 0.1]), np.array([0.75, 0.5, 0.0]))
    0.25
    """
    return float(correctness.max() - correctness[scores == scores.max()].mean())


def spearman(scores: Values, correctness: Values) -> float:
    """Return Spearman's rank correlation; 0 if the scores or the correctness are constant.

    >>> round(spearman(np.array([0.1, 0.4, 0.3, 0.9]), np.array([0.0, 0.2, 0.3, 1.0])), 12)
    0.8
    """
    if (scores == scores[0]).all() or (correctness == correctness[0]).all():
        return 0.0
    from scipy.stats import spearmanr  # takes seconds to import

    return float(spearmanr(scores, correctness).statistic)


def is_graded(correctness: Values) -> bool:
    """Return whether any correctness is strictly between 0 and 1."""
    return bool(((correctness > 0) & (correctness < 1)).any())


class ResponseRanking(NamedTuple):
    """How well scores rank the responses to each of n examples, sorted by number and equal on every process.

    Args:
        number: int64 [n], ``EvaluationExample.number``: index of the example in the evaluation set.
        accuracy: float64 [n], 1 if the response with the highest score is right, else 0.
        regret: float64 [n], correctness of the best response minus that of the one with the highest score.
        spearman: float64 [n], rank correlation of scores and correctness; NaN for an example whose responses are all
            right or wrong.
    """

    number: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    regret: NDArray[np.float64]
    spearman: NDArray[np.float64]


class ResponseRankingMetric(Metric):
    """Gathers the ranking metrics of examples over processes; an example that several evaluated counts once."""

    full_state_update = False
    measured: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("measured", default=[], dist_reduce_fx="cat")

    def update(self, numbers: Sequence[int], scores: Sequence[Tensor], correctness: Sequence[Tensor]) -> None:
        """Add examples, with scores and correctness of their responses; there may be none.

        Args:
            numbers: ``EvaluationExample.number`` of each example.
            scores: Scores [n] of the n responses to each example.
            correctness: Their correctness [n], in [0, 1].
        """
        rows = []
        for number, score, right in zip(numbers, scores, correctness, strict=True):
            s, c = score.double().cpu().numpy(), right.double().cpu().numpy()
            rows.append((number, top_is_right(s, c), regret(s, c), spearman(s, c) if is_graded(c) else np.nan))
        self.measured.append(torch.tensor(rows, dtype=torch.float64, device=self.device).reshape(-1, 4))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over processes; a process without examples contributes no rows.

        torchmetrics would contribute an empty float32 tensor, which aborts a gather of float64.
        """
        self.update((), (), ())
        super().sync(*args, **kwargs)

    def compute(self) -> ResponseRanking:
        """Return the ranking metrics of every example that any process evaluated."""
        rows = dim_zero_cat(self.measured).cpu().numpy()
        numbers, places = np.unique(rows[:, 0], return_index=True)
        accuracy, lost, correlation = rows[places, 1:].T
        return ResponseRanking(numbers.astype(np.int64), accuracy, lost, correlation)
