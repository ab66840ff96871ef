"""Choosing one of several answers: by a scorer, by likelihood, by agreement; and what each choice is worth.

The rows of Cappy's tables (arXiv 2311.06720, sections 4.2 and 4.3): a scorer picks among the 17 candidates of a frozen
model, beside each single decoding and the model's own choice. Every method is a function of the same candidates, so
that one set of samples serves the whole table.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datamodules.rouge import rouge_l
from ...datamodules.scoring.samples import Sample
from ..evaluation.answers import normalize_answer
from ..evaluation.significance import Difference, Resampling, difference, interval
from .ranking import spearman

Values = NDArray[np.float64]


class Candidates(NamedTuple):
    """The candidates of one example.

    Args:
        task: Name of its task.
        id: Of the example.
        samples: The candidates, the first of equals winning.
        quality: float64 [n], ROUGE-L against the references, in [0, 1].
        scores: float64 [n], of the scorer; None where there is none.
    """

    task: str
    id: str
    samples: Sequence[Sample]
    quality: Values
    scores: Values | None = None

    @classmethod
    def of(
        cls, task: str, example: str, samples: Sequence[Sample], references: Sequence[str], scores: Sequence[float] = ()
    ) -> "Candidates":
        """Candidates with their quality.

        Raises:
            ValueError: There is no candidate, or there are not as many scores.
        """
        if not samples:
            raise ValueError(f"{task} {example} has no candidates to select from")
        if len(scores) not in (0, len(samples)):
            raise ValueError(f"{task} {example} has {len(samples)} candidates and {len(scores)} scores")
        known = {text: rouge_l(text, references) for text in {sample.response for sample in samples}}
        quality = np.array([known[sample.response] for sample in samples])
        return cls(task, example, samples, quality, np.array(scores, dtype=float) if len(scores) else None)

    def likelihoods(self, *, mean: bool = False) -> Values:
        """Log-likelihoods [n], or their means over tokens; -inf where unknown."""
        found = [
            -np.inf if each.log_likelihood is None else each.log_likelihood / (max(each.tokens or 1, 1) if mean else 1)
            for each in self.samples
        ]
        return np.array(found)

    def restricted(self, count: int, decoding: str = "nucleus") -> "Candidates":
        """The first samples of one decoding alone, as Cappy's Table 5 has 1, 4 and 17; all if there are no more."""
        if count >= len(self.samples):
            return self
        places = [place for place, sample in enumerate(self.samples) if sample.decoding == decoding][:count]
        if len(places) < count:
            raise ValueError(f"{self.task} {self.id} has {len(places)} {decoding} samples, and {count} are asked for")
        scores = None if self.scores is None else self.scores[places]
        return self._replace(
            samples=[self.samples[place] for place in places], quality=self.quality[places], scores=scores
        )


def by_scorer(candidates: Candidates) -> int:
    """The best-scored candidate."""
    return int(_scores(candidates).argmax())


def by_likelihood(candidates: Candidates) -> int:
    """Self-scoring as in Cappy's Table 2: the greatest summed log-likelihood."""
    return int(candidates.likelihoods().argmax())


def by_mean_likelihood(candidates: Candidates) -> int:
    """Self-scoring by the mean over tokens, which Cappy's repository reports beside the sum."""
    return int(candidates.likelihoods(mean=True).argmax())


def by_agreement(candidates: Candidates) -> int:
    """Self-consistency (Wang et al., arXiv 2203.11171): the answer that comes most often, after normalization."""
    return _vote(candidates, np.ones(len(candidates.samples)))


def by_scored_agreement(candidates: Candidates) -> int:
    """The same, each candidate voting with its score in [0, 1]."""
    return _vote(candidates, _votes(candidates))


def by_risk(candidates: Candidates) -> int:
    """Minimum Bayes risk (Kumar and Byrne, 2004): the greatest mean ROUGE-L against all candidates."""
    return _least_risk(candidates, np.ones(len(candidates.samples)))


def by_scored_risk(candidates: Candidates) -> int:
    """The same, each candidate being a reference with the weight of its score in [0, 1]."""
    return _least_risk(candidates, _votes(candidates))


SCORED: Mapping[str, Callable[[Candidates], int]] = {
    "scorer": by_scorer,
    "self-consistency, scored": by_scored_agreement,
    "minimum Bayes risk, scored": by_scored_risk,
}
"""Methods that need a scorer."""

LIKELIHOOD: Mapping[str, Callable[[Candidates], int]] = {
    "self-score, sum": by_likelihood,
    "self-score, mean": by_mean_likelihood,
}
"""Methods that need the model's likelihoods, which a black box does not tell."""

UNSCORED: Mapping[str, Callable[[Candidates], int]] = {"self-consistency": by_agreement, "minimum Bayes risk": by_risk}
"""Methods that need the candidates alone."""


def _scores(candidates: Candidates) -> Values:
    if candidates.scores is None:
        raise ValueError(f"{candidates.task} {candidates.id} was not scored")
    return candidates.scores


def _votes(candidates: Candidates) -> Values:
    """Scores as weights: a scorer regresses correctness, and may leave [0, 1]."""
    clipped = _scores(candidates).clip(0.0, 1.0)
    return clipped if clipped.any() else np.ones_like(clipped)


def _vote(candidates: Candidates, weights: Values) -> int:
    answers = [normalize_answer(sample.response) for sample in candidates.samples]
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        totals[answer] = totals.get(answer, 0.0) + float(weight)
    return answers.index(max(totals, key=totals.__getitem__))


def _least_risk(candidates: Candidates, weights: Values) -> int:
    texts = list(dict.fromkeys(sample.response for sample in candidates.samples))
    weight = dict.fromkeys(texts, 0.0)
    for sample, own in zip(candidates.samples, weights, strict=True):
        weight[sample.response] += float(own)
    gain = [sum(weight[other] * rouge_l(text, [other]) for other in texts) for text in texts]
    best = texts[int(np.argmax(gain))]
    return [sample.response for sample in candidates.samples].index(best)


def choices(candidates: Candidates) -> dict[str, int]:
    """The candidate that each method chooses; a single decoding is its first sample, named as in the file."""
    methods = dict(UNSCORED)
    if all(sample.log_likelihood is not None for sample in candidates.samples if sample.response):
        methods |= LIKELIHOOD
    if candidates.scores is not None:
        methods |= SCORED
    singles = {sample.decoding: place for place, sample in reversed(list(enumerate(candidates.samples)))}
    chosen = {name: singles[name] for name in reversed(singles)}
    return chosen | {name: choose(candidates) for name, choose in methods.items()}


def worth(candidates: Candidates) -> dict[str, float]:
    """Quality of what each method chooses, of a random choice (the mean), and of the best one (the oracle)."""
    chosen = {name: float(candidates.quality[place]) for name, place in choices(candidates).items()}
    return chosen | {"random": float(candidates.quality.mean()), "oracle": float(candidates.quality.max())}


class SelectionTable(NamedTuple):
    """What each method is worth: means over instances, then over tasks, as in the paper.

    Args:
        methods: Their names; single decodings first, the oracle last.
        mean: float64 [methods], in [0, 1].
        low: Lower ends of 95% intervals over resampled instances of each task.
        high: Their upper ends.
        tasks: float64 [tasks, methods], means of each task, in the order of `names`.
        names: Of the tasks.
        instances: How many.
        best_single: Name of the single decoding with the highest mean.
        gains: Of each method over the best single decoding, paired by instance.
        recovered: Share of (oracle less best single decoding) that the scorer gains; NaN without a scorer or a gap.
        spearman: Mean over instances of the rank correlation of score and quality, where quality varies; or NaN.
        rank_correlations: How many instances that is the mean of.
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
    recovered: float
    spearman: float
    rank_correlations: int


def selection_table(everything: Sequence[Candidates], *, resamples: int = 1000, seed: int = 0) -> SelectionTable:
    """The table of all examples; only methods that every example allows are compared.

    Raises:
        ValueError: There is no example, or no method is common to all.
    """
    if not everything:
        raise ValueError("no example has candidates to select from")
    rows = [worth(candidates) for candidates in everything]
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    names = list(dict.fromkeys(candidates.task for candidates in everything))
    values = np.array([[row[name] for name in shared] for row in rows])
    places = [[i for i, candidates in enumerate(everything) if candidates.task == name] for name in names]

    def resampled(columns: Values) -> Values:
        """[1 + R] of one value an instance: the mean over tasks, and of its resamples, the same for every call."""
        draw = Resampling(resamples, seed)
        return np.mean([draw(columns[members]) for members in places], axis=0)

    estimates = [interval(resampled(values[:, m]), len(rows)) for m in range(len(shared))]
    decodings = {sample.decoding for candidates in everything for sample in candidates.samples}
    singles = [name for name in shared if name in decodings]
    mean = dict(zip(shared, (estimate.mean for estimate in estimates), strict=True))
    best = max(singles or ["random"], key=mean.__getitem__)
    gap = mean["oracle"] - mean[best]
    correlations = [
        spearman(c.scores, c.quality) for c in everything if c.scores is not None and len(set(c.quality.tolist())) > 1
    ]
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
        recovered=(mean["scorer"] - mean[best]) / gap if "scorer" in mean and gap > 0 else float("nan"),
        spearman=float(np.mean(correlations)) if correlations else float("nan"),
        rank_correlations=len(correlations),
    )


def task_gains(everything: Sequence[Candidates], name: str, base: str) -> dict[str, Difference]:
    """How much one method gains over another on each task, with its interval: the advantages of Cappy's Figure 6."""
    gained: dict[str, list[float]] = {}
    for candidates in everything:
        row = worth(candidates)
        gained.setdefault(candidates.task, []).append(row[name] - row[base])
    return {task: difference(Resampling()(np.array(values))) for task, values in gained.items()}
