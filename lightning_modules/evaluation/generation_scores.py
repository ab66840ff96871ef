"""A torchmetrics metric that gathers the scores of answers over processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from .answers import Answer
from .metrics import Scores


class GenerationScores(Metric):
    """Gathers the scores of every evaluated example over processes; an example that several evaluated counts once.

    ``compute`` returns the scores of examples instead of means, so that means over tasks and categories are exact.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, answers: Sequence[Answer]) -> None:
        """Add answers; the sequence may be empty."""
        # float64 throughout: numbers below 2**53 survive, and every process gathers the same type.
        rows = torch.tensor([_row(answer) for answer in answers], dtype=torch.float64, device=self.device)
        self.rows.append(rows.reshape(-1, len(Scores._fields)))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over processes; a process without answers contributes no rows.

        torchmetrics would contribute an empty float32 tensor, which aborts a gather of float64.
        """
        self.update(())
        super().sync(*args, **kwargs)

    def compute(self) -> Scores:
        """Return the scores of every example that any process evaluated."""
        rows = dim_zero_cat(self.rows).cpu().numpy()
        numbers, places = np.unique(rows[:, 0], return_index=True)
        return Scores(numbers.astype(np.int64), *rows[places, 1:].T)


def _row(answer: Answer) -> list[float]:
    """Return an answer's scores in the order of ``Scores``."""
    accuracy = float("nan") if answer.accuracy is None else answer.accuracy
    scores = [answer.rouge_l, float(answer.exact_match), answer.token_f1, accuracy]
    flags = [answer.degenerate != "", answer.tied, answer.unread, answer.erased]
    return [float(answer.example.number), *scores, *map(float, flags)]
