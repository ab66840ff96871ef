"""Quality of the responses that selection methods choose, averaged over tasks, with intervals."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..evaluation.significance import Difference, Resampling, difference, interval
from .calibration import calibration_error
from .ranking_metrics import spearman
from .selection import ScoredResponses, choices, ranking_scores

Values = NDArray[np.float64]


def quality_of_choices(responses: ScoredResponses) -> dict[str, float]:
    """Return the quality (ROUGE-L) of the response that each selection method chooses for an example, by its name.

    ``random`` is the mean quality of all responses, ``oracle`` that of the best one. Where several responses have the
    highest score, their mean counts: a scorer with equal scores is as good as a random choice.
    """
    chosen = {name: float(responses.quality[place]) for name, place in choices(responses).items()}
    for name, scores in ranking_scores(responses).items():
        chosen[name] = float(responses.quality[scores == scores.max()].mean())
    return chosen | {"random": float(responses.quality.mean()), "oracle": float(responses.quality.max())}


class SelectionTable(NamedTuple):
    """Quality of the responses that each selection method chooses, as in Cappy's tables (arXiv 2311.06720).

    Means are taken over the instances of a task, then over tasks. Beside the methods of ``choices``, the table has
    ``random``, the mean quality of all responses, and ``oracle``, the quality of the best response. A single decoding
    is a method that takes the first sample of one decoding, e.g. of greedy search.

    Args:
        methods: Names of the methods; single decodings first, the oracle last.
        mean: float64 [methods], mean quality in [0, 1].
        low: float64 [methods], lower ends of 95% intervals over resampled instances.
        high: float64 [methods], upper ends of the intervals.
        tasks: float64 [tasks, methods], mean quality on each task, in the order of `names`.
        names: Names of the tasks.
        instances: Number of instances of all tasks.
        best_single: Name of the single decoding with the highest mean; ``random`` if all instances have none in common.
        gains: By method, its mean quality minus that of the best single decoding, paired by instance.
        recovered: By scorer, its gain over the best single decoding, divided by the oracle's gain; NaN if the oracle
            gains nothing.
        spearman: By scorer, the mean rank correlation with quality over instances whose quality varies; NaN if there
            are none.
        rank_correlations: Number of instances whose quality varies.
        unread: Number of instances whose references ROUGE-L cannot read, by task; tasks without any are left out.
        left_out: Methods that only some instances have, e.g. a decoding that others were not sampled with: the number
            of instances that have each.
    """

    methods: list[str]
    mean: Values
    low: Values
    high: Values
    tasks: Values
    names: list[str]
    instances: int
    best_single: str
    gains: dict[str, Difference]
    recovered: dict[str, float]
    spearman: dict[str, float]
    rank_correlations: int
    unread: dict[str, int]
    left_out: dict[str, int]


def selection_table(everything: Sequence[ScoredResponses], *, resamples: int = 1000, seed: int = 0) -> SelectionTable:
    """Compare selection methods by the quality of their choices, over all examples and with confidence intervals.

    The methods are those of ``choices``, a random choice and an oracle. A method that some examples lack, e.g. a
    decoding that they were not sampled with, is left out.

    Args:
        everything: The responses to each example, with their quality, scores and votes.
        resamples: Number of bootstrap resamples of the instances of each task.
        seed: Seed of the resamples.

    Raises:
        ValueError: There is no example.
    """
    if not everything:
        raise ValueError("there are no examples to select responses for")
    rows = [quality_of_choices(responses) for responses in everything]
    having = Counter(name for row in rows for name in row)
    shared = [name for name in rows[0] if having[name] == len(rows)]
    names = list(dict.fromkeys(responses.task for responses in everything))
    values = np.array([[row[name] for name in shared] for row in rows])
    places = [[i for i, responses in enumerate(everything) if responses.task == name] for name in names]

    def resampled(columns: Values) -> Values:
        """[1 + R]: mean over tasks of the instances' values [n], then of R resamples, the same in every call."""
        draw = Resampling(resamples, seed)
        return np.mean([draw(columns[members]) for members in places], axis=0)

    estimates = [interval(resampled(values[:, m]), len(rows)) for m in range(len(shared))]
    decodings = {sample.decoding for responses in everything for sample in responses.samples}
    singles = [name for name in shared if name in decodings]
    mean = dict(zip(shared, (estimate.mean for estimate in estimates), strict=True))
    best = max(singles or ["random"], key=mean.__getitem__)
    gap = mean["oracle"] - mean[best]
    scorers = [name for name in rows[0] if all(name in responses.scores for responses in everything)]
    varied = [responses for responses in everything if len(set(responses.quality.tolist())) > 1]
    base = values[:, shared.index(best)]
    return SelectionTable(
        methods=shared,
        mean=np.array([estimate.mean for estimate in estimates]),
        low=np.array([estimate.low for estimate in estimates]),
        high=np.array([estimate.high for estimate in estimates]),
        tasks=np.array([values[members].mean(axis=0) for members in places]),
        names=names,
        instances=len(rows),
        best_single=best,
        gains={name: difference(resampled(values[:, m] - base)) for m, name in enumerate(shared)},
        recovered={name: (mean[name] - mean[best]) / gap if gap > 0 else float("nan") for name in scorers},
        spearman={name: _mean([spearman(c.scores[name], c.quality) for c in varied]) for name in scorers},
        rank_correlations=len(varied) if scorers else 0,
        unread=dict(Counter(responses.task for responses in everything if responses.unread)),
        left_out={name: count for name, count in having.items() if count < len(rows)},
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def task_gains(everything: Sequence[ScoredResponses], name: str, base: str) -> dict[str, Difference]:
    """Return the mean gain of one selection method over another on each task, with its interval (Cappy's Figure 6).

    A gain is a difference of ROUGE-L, in [-1, 1], paired by example.

    Args:
        everything: The responses to each example of all tasks.
        name: Name of the method, as ``choices`` returns it.
        base: Name of the other method.
    """
    gained: dict[str, list[float]] = {}
    for responses in everything:
        row = quality_of_choices(responses)
        gained.setdefault(responses.task, []).append(row[name] - row[base])
    return {task: difference(Resampling()(np.array(values))) for task, values in gained.items()}


def mean_calibration_error(everything: Sequence[ScoredResponses], votes: str) -> float:
    """Return the expected calibration error in [0, 1] of votes as estimates of quality, averaged over tasks.

    Args:
        everything: The responses to each example, with their quality and votes.
        votes: Name of the votes, a key of ``ScoredResponses.votes``.
    """
    by_task: dict[str, list[ScoredResponses]] = {}
    for responses in everything:
        by_task.setdefault(responses.task, []).append(responses)
    errors = []
    for of_task in by_task.values():
        expected, quality = ([c.votes[votes] for c in of_task], [c.quality for c in of_task])
        errors.append(calibration_error(np.concatenate(expected), np.concatenate(quality)))
    return float(np.mean(errors))
