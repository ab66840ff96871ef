"""Scores of answers, gathered over processes, and estimates over groups."""

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
    """Scores of all examples, sorted by number, the same on every process.

    They are arrays, since torchmetrics makes scalars of tensors that hold one element. Those with a default may be left
    out where nobody asks for them.

    Args:
        number: int64 [n], ``EvaluationExample.number``.
        rouge_l: float64 [n], in [0, 1].
        exact_match: float64 [n], 0 or 1.
        token_f1: float64 [n], in [0, 1].
        accuracy: float64 [n], 0 or 1; NaN for an example without options.
        degenerate: float64 [n], 1 where an answer lost its form, see ``answers.degeneration``.
        tied: float64 [n], 1 where the chosen option was not the only one with its score.
    """

    number: NDArray[np.int64]
    rouge_l: NDArray[np.float64]
    exact_match: NDArray[np.float64]
    token_f1: NDArray[np.float64] = np.empty(0)
    accuracy: NDArray[np.float64] = np.empty(0)
    degenerate: NDArray[np.float64] = np.empty(0)
    tied: NDArray[np.float64] = np.empty(0)

    def column(self, name: str) -> NDArray[np.float64]:
        """One kind of score [n], NaN where nobody asked for it."""
        values = getattr(self, name)
        return values if len(values) else np.full(len(self.number), np.nan)

    def means(self) -> dict[str, float]:
        """The mean of every kind of score over the examples that have it; ties are counted."""
        kinds = {name: getattr(self, name) for name in ("rouge_l", "exact_match", "token_f1", "accuracy", "degenerate")}
        found = {name: values[~np.isnan(values)] for name, values in kinds.items()}
        means = {name: float(values.mean()) for name, values in found.items() if len(values)}
        return means | ({"ties": float(self.tied.sum())} if "accuracy" in means else {})


class GenerationScores(Metric):
    """Per-example scores that survive gathering: an example counts once, however many processes answered it.

    Means are taken of what ``compute`` returns, so that any grouping (task, category, level) is exact.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, answers: Sequence[Answer]) -> None:
        """Add answers; none is fine, and keeps a process that had nothing to answer in step."""
        # float64 throughout: numbers below 2**53 survive, and every process gathers the same type.
        rows = torch.tensor([_row(answer) for answer in answers], dtype=torch.float64, device=self.device)
        self.rows.append(rows.reshape(-1, len(Scores._fields)))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather; a process that was never updated takes part with nothing, of the others' type.

        torchmetrics would send float32 in its place, which aborts a gather of float64.
        """
        self.update(())
        super().sync(*args, **kwargs)

    def compute(self) -> Scores:
        """Scores of every example that any process answered."""
        rows = dim_zero_cat(self.rows).cpu().numpy()
        numbers, places = np.unique(rows[:, 0], return_index=True)
        return Scores(numbers.astype(np.int64), *rows[places, 1:].T)


def _row(answer: Answer) -> list[float]:
    """An answer's numbers, in the order of ``Scores``."""
    accuracy = float("nan") if answer.accuracy is None else answer.accuracy
    scores = [answer.rouge_l, float(answer.exact_match), answer.token_f1, accuracy]
    return [float(answer.example.number), *scores, float(answer.degenerate != ""), float(answer.tied)]
