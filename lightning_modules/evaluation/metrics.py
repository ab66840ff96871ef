"""The torchmetrics metric of answers: scores of every example, gathered over processes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from .answers import Answer


class Scores(NamedTuple):
    """Scores of n examples, sorted by number, the same on every process.

    They are arrays, since torchmetrics turns tensors of one element into scalars. An array with a default is empty if
    that score was not computed.

    Args:
        number: int64 [n], ``EvaluationExample.number``.
        rouge_l: float64 [n], in [0, 1].
        exact_match: float64 [n], 0 or 1.
        token_f1: float64 [n], in [0, 1].
        accuracy: float64 [n], 0 or 1; NaN for an example without options.
        degenerate: float64 [n], 1 for an answer that lost its form, see ``text_metrics.degeneration``.
        tied: float64 [n], 1 if another option had the same score as the chosen one.
    """

    number: NDArray[np.int64]
    rouge_l: NDArray[np.float64]
    exact_match: NDArray[np.float64]
    token_f1: NDArray[np.float64] = np.empty(0)
    accuracy: NDArray[np.float64] = np.empty(0)
    degenerate: NDArray[np.float64] = np.empty(0)
    tied: NDArray[np.float64] = np.empty(0)

    def column(self, name: str) -> NDArray[np.float64]:
        """One kind of score [n]; NaN if it was not computed."""
        values = getattr(self, name)
        return values if len(values) else np.full(len(self.number), np.nan)

    def means(self) -> dict[str, float]:
        """The mean of each kind of score over the examples that have it, and the number of ties."""
        kinds = {name: getattr(self, name) for name in ("rouge_l", "exact_match", "token_f1", "accuracy", "degenerate")}
        scores = {name: values[~np.isnan(values)] for name, values in kinds.items()}
        means = {name: float(values.mean()) for name, values in scores.items() if len(values)}
        return means | ({"ties": float(self.tied.sum())} if "accuracy" in means else {})


class GenerationScores(Metric):
    """Scores per example; an example counts once, however many processes evaluated it.

    ``compute`` returns scores rather than means, so that any grouping (task, category, level) is exact.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, answers: Sequence[Answer]) -> None:
        """Add answers; there may be none."""
        # float64 throughout: numbers below 2**53 survive, and every process gathers the same type.
        rows = torch.tensor([_row(answer) for answer in answers], dtype=torch.float64, device=self.device)
        self.rows.append(rows.reshape(-1, len(Scores._fields)))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over processes; a process that was never updated contributes no rows, in float64.

        torchmetrics would contribute an empty float32 tensor, which aborts a gather of float64.
        """
        self.update(())
        super().sync(*args, **kwargs)

    def compute(self) -> Scores:
        """Scores of every example that any process evaluated."""
        rows = dim_zero_cat(self.rows).cpu().numpy()
        numbers, places = np.unique(rows[:, 0], return_index=True)
        return Scores(numbers.astype(np.int64), *rows[places, 1:].T)


def _row(answer: Answer) -> list[float]:
    """An answer's scores in the order of ``Scores``."""
    accuracy = float("nan") if answer.accuracy is None else answer.accuracy
    scores = [answer.rouge_l, float(answer.exact_match), answer.token_f1, accuracy]
    return [float(answer.example.number), *scores, float(answer.degenerate != ""), float(answer.tied)]
