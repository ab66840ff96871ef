"""The scores of evaluated examples, as arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scores(NamedTuple):
    """Scores of n examples, sorted by number and equal on every process.

    They are arrays because torchmetrics turns tensors of one element into scalars. An array that is empty by default
    was not computed.

    Args:
        number: int64 [n], ``EvaluationExample.number``: index of the example in the evaluation set.
        rouge_l: float64 [n], in [0, 1].
        exact_match: float64 [n], 0 or 1.
        token_f1: float64 [n], in [0, 1].
        accuracy: float64 [n], 0 or 1; NaN for an example without options.
        degenerate: float64 [n], 1 for an answer without the expected form, e.g. an empty one or none of the options.
        tied: float64 [n], 1 if another option had the same score as the chosen one.
        unread: float64 [n], 1 if ROUGE-L finds no words in any of the references.
        erased: float64 [n], 1 if the task's rule leaves nothing of one of the references.
    """

    number: NDArray[np.int64]
    rouge_l: NDArray[np.float64]
    exact_match: NDArray[np.float64]
    token_f1: NDArray[np.float64] = np.empty(0)
    accuracy: NDArray[np.float64] = np.empty(0)
    degenerate: NDArray[np.float64] = np.empty(0)
    tied: NDArray[np.float64] = np.empty(0)
    unread: NDArray[np.float64] = np.empty(0)
    erased: NDArray[np.float64] = np.empty(0)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one kind of score, [n]; NaN if it was not computed."""
        values = getattr(self, name)
        return values if len(values) else np.full(len(self.number), np.nan)

    def means(self) -> dict[str, float]:
        """Return the mean of each kind of score over the examples that have it, and the number of ties."""
        kinds = {name: getattr(self, name) for name in ("rouge_l", "exact_match", "token_f1", "accuracy", "degenerate")}
        scores = {name: values[~np.isnan(values)] for name, values in kinds.items()}
        means = {name: float(values.mean()) for name, values in scores.items() if len(values)}
        return means | ({"ties": float(self.tied.sum())} if "accuracy" in means else {})
