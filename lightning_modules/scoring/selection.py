"""Choosing one of several answers: by a scorer, by likelihood, by agreement; and what each choice is worth.

The rows of Cappy's tables (arXiv 2311.06720, sections 4.2 and 4.3): a scorer picks among the 17 responses of a frozen
model, beside each single decoding and the model's own choice. Every method is a function of the same responses, so
that one set of samples serves the whole table.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datamodules.rouge import rouge_l
from ...datamodules.scoring.samples import Sample
from ..evaluation.text_metrics import normalize_answer

Values = NDArray[np.float64]

NOTHING: Mapping[str, Values] = MappingProxyType({})

SCORER, SCORED = "scorer", "scored"
"""Names of the one scorer there usually is, and of what it weighs; others are called by their own name."""

CALIBRATED = "calibrated"
"""Name of what that scorer weighs once it is calibrated."""


class ScoredResponses(NamedTuple):
    """The responses of one example.

    Args:
        task: Name of its task.
        id: Of the example.
        samples: The responses, the first of equals winning.
        quality: float64 [n], ROUGE-L against the references, in [0, 1].
        scores: float64 [n] of each scorer, by its name.
        votes: float64 [n] by name, how much each response counts where answers are aggregated.
    """

    task: str
    id: str
    samples: Sequence[Sample]
    quality: Values
    scores: Mapping[str, Values] = NOTHING
    votes: Mapping[str, Values] = NOTHING

    @classmethod
    def of(
        cls,
        task: str,
        example: str,
        samples: Sequence[Sample],
        references: Sequence[str],
        scores: Mapping[str, Values] = NOTHING,
        votes: Mapping[str, Values] = NOTHING,
    ) -> "ScoredResponses":
        """Responses with their quality.

        Args:
            task: Name of its task.
            example: Its id.
            samples: The responses.
            references: What is right.
            scores: Of each scorer.
            votes: What responses weigh, by the name that rows have.

        Raises:
            ValueError: There is no response, or there are not as many scores.
        """
        if not samples:
            raise ValueError(f"{task} {example} has no responses to select from")
        taken = RESERVED - {SCORER} | {sample.decoding for sample in samples}
        for name, of_scorer in scores.items():
            if name in taken:
                raise ValueError(f"a scorer cannot be called {name!r}, which is another row of the table")
            if len(of_scorer) != len(samples):
                raise ValueError(f"{task} {example} has {len(samples)} responses and {len(of_scorer)} scores")
        known = {text: rouge_l(text, references) for text in {sample.response for sample in samples}}
        quality = np.array([known[sample.response] for sample in samples])
        return cls(task, example, samples, quality, scores, votes)

    def likelihoods(self, *, mean: bool = False) -> Values:
        """Log-likelihoods [n], or their means over tokens; -inf where unknown."""
        found = [
            -np.inf if each.log_likelihood is None else each.log_likelihood / (max(each.tokens or 1, 1) if mean else 1)
            for each in self.samples
        ]
        return np.array(found)

    def restricted(self, count: int, decoding: str = "nucleus") -> "ScoredResponses":
        """The first samples of one decoding alone, as Cappy's Table 5 has 1 and 4 beside all 17.

        Of several generators, whose decodings are named by them, the first samples of each.

        Raises:
            ValueError: There are not as many.
        """
        names = dict.fromkeys(sample.decoding for sample in self.samples)
        wanted = [decoding] if decoding in names else [name for name in names if name.endswith(f" {decoding}")]
        found = [[p for p, sample in enumerate(self.samples) if sample.decoding == name][:count] for name in wanted]
        if (fewest := min(map(len, found), default=0)) < count or count < 1:
            raise ValueError(f"{self.task} {self.id} has {fewest} {decoding} samples, and {count} are sampled for")
        places = sorted(place for own in found for place in own)
        scores, votes = ({name: own[places] for name, own in of.items()} for of in (self.scores, self.votes))
        samples = [self.samples[place] for place in places]
        return self._replace(samples=samples, quality=self.quality[places], scores=scores, votes=votes)


def vote_name(scorer: str) -> str:
    """What rows are called that aggregate answers by a scorer."""
    return SCORED if scorer == SCORER else scorer


def calibrated_name(scorer: str) -> str:
    """The same for calibrated scores."""
    return CALIBRATED if scorer == SCORER else f"{scorer}, {CALIBRATED}"


def correctness_votes(scores: Values) -> Values:
    """Estimates of a correctness as weights; a regression may leave [0, 1]."""
    return scores.clip(0.0, 1.0)


def preference_votes(scores: Values) -> Values:
    """Scores of a ranking loss as weights: softmax(scores), the strengths of Bradley and Terry.

    Such scores have no level, so that clipping them would mean nothing.
    """
    strengths = np.exp(scores - scores.max())
    return strengths / strengths.sum()


def by_score(responses: ScoredResponses, scorer: str = SCORER) -> int:
    """The response that a scorer likes best."""
    return int(responses.scores[scorer].argmax())


def by_likelihood(responses: ScoredResponses) -> int:
    """Self-scoring as in Cappy's Table 2: the greatest summed log-likelihood."""
    return int(responses.likelihoods().argmax())


def by_mean_likelihood(responses: ScoredResponses) -> int:
    """Self-scoring by the mean over tokens, which Cappy's repository reports beside the sum."""
    return int(responses.likelihoods(mean=True).argmax())


def by_self_consistency(responses: ScoredResponses) -> int:
    """Self-consistency (Wang et al., arXiv 2203.11171): the answer that comes most often, after normalization."""
    return _vote(responses, np.ones(len(responses.samples)))


def by_weighted_self_consistency(responses: ScoredResponses, votes: str = SCORED) -> int:
    """The same, each response voting with its own weight."""
    return _vote(responses, _some(responses.votes[votes]))


def by_minimum_bayes_risk(responses: ScoredResponses) -> int:
    """Minimum Bayes risk (Kumar and Byrne, 2004): the greatest mean ROUGE-L against all responses."""
    return _least_risk(responses, np.ones(len(responses.samples)))


def by_weighted_minimum_bayes_risk(responses: ScoredResponses, votes: str = SCORED) -> int:
    """The same, each response being a reference with its own weight."""
    return _least_risk(responses, _some(responses.votes[votes]))


LIKELIHOOD: Mapping[str, Callable[[ScoredResponses], int]] = {
    "self-score, sum": by_likelihood,
    "self-score, mean": by_mean_likelihood,
}
"""Methods that need the model's likelihoods, which a black box does not tell."""

UNSCORED: Mapping[str, Callable[[ScoredResponses], int]] = {
    "self-consistency": by_self_consistency,
    "minimum Bayes risk": by_minimum_bayes_risk,
}
"""Methods that need the responses alone."""


RESERVED = frozenset({SCORER, SCORED, CALIBRATED, "random", "oracle", *LIKELIHOOD, *UNSCORED})
"""Names of rows, and of what responses weigh, that no other scorer can have."""


def _some(votes: Values) -> Values:
    """Weights; where all are 0, all responses count the same."""
    return votes if votes.any() else np.ones_like(votes)


def _vote(responses: ScoredResponses, weights: Values) -> int:
    answers = [normalize_answer(sample.response) for sample in responses.samples]
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        totals[answer] = totals.get(answer, 0.0) + float(weight)
    return answers.index(max(totals, key=totals.__getitem__))


def _least_risk(responses: ScoredResponses, weights: Values) -> int:
    texts = list(dict.fromkeys(sample.response for sample in responses.samples))
    weight = dict.fromkeys(texts, 0.0)
    for sample, own in zip(responses.samples, weights, strict=True):
        weight[sample.response] += float(own)
    gain = [sum(weight[other] * _similarity(text, other) for other in texts) for text in texts]
    best = texts[int(np.argmax(gain))]
    return [sample.response for sample in responses.samples].index(best)


@lru_cache(maxsize=2**20)  # the same responses are compared by every method, in every table
def _similarity(text: str, other: str) -> float:
    return rouge_l(text, [other])


def choices(responses: ScoredResponses) -> dict[str, int]:
    """The response that each method chooses; a single decoding is its first sample, named as in the file."""
    methods = dict(UNSCORED)
    if all(sample.log_likelihood is not None for sample in responses.samples if sample.response):
        methods |= LIKELIHOOD
    for name in responses.scores:
        methods[name] = partial(by_score, scorer=name)
    for name in responses.votes:
        methods[f"self-consistency, {name}"] = partial(by_weighted_self_consistency, votes=name)
        methods[f"minimum Bayes risk, {name}"] = partial(by_weighted_minimum_bayes_risk, votes=name)
    singles = {sample.decoding: place for place, sample in reversed(list(enumerate(responses.samples)))}
    chosen = {name: singles[name] for name in reversed(singles)}
    return chosen | {name: choose(responses) for name, choose in methods.items()}
