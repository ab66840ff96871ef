"""Selection among sampled responses: by a scorer, likelihood, self-consistency or minimum Bayes risk.

These are the methods of Cappy's tables (arXiv 2311.06720, sections 4.2 and 4.3): a scorer selects among the 17
responses of a frozen model, and is compared with each single decoding and with the model's likelihood. Every method is
a function of the same responses, so that one set of samples serves the whole table.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...datamodules.rouge import ROUGE_L, Rouge, cannot_score
from ...datamodules.scoring.samples import Sample
from ..evaluation.answer_rules import bare

Values = NDArray[np.float64]

NO_SCORES: Mapping[str, Values] = MappingProxyType({})

SCORER, SCORED = "scorer", "scored"
"""Names of the default scorer and of its votes; other scorers have their own names."""

CALIBRATED = "calibrated"
"""Name of the default scorer's calibrated votes."""


class ScoredResponses(NamedTuple):
    """The n responses to one example with their quality, scores and votes; selection methods choose among them.

    Args:
        task: Name of the example's task.
        id: Id of the example.
        samples: The responses. Among equally good ones a method selects the first.
        quality: float64 [n], ROUGE-L of each response against the references, in [0, 1].
        scores: By a scorer's name, float64 [n], its score of each response; higher is better.
        votes: By the name of a row of the table of methods, float64 [n], the weight of each response in
            self-consistency and minimum Bayes risk, at least 0.
        rouge: Implementation of ROUGE-L that computed the quality.
        unread: Whether ROUGE-L finds no words in the references, e.g. in text without Latin letters.
    """

    task: str
    id: str
    samples: Sequence[Sample]
    quality: Values
    scores: Mapping[str, Values] = NO_SCORES
    votes: Mapping[str, Values] = NO_SCORES
    rouge: Rouge = "exact"
    unread: bool = False

    @classmethod
    def of(
        cls,
        task: str,
        example: str,
        samples: Sequence[Sample],
        references: Sequence[str],
        scores: Mapping[str, Values] = NO_SCORES,
        votes: Mapping[str, Values] = NO_SCORES,
        rouge: Rouge = "exact",
    ) -> "ScoredResponses":
        """Compute the quality of responses, ROUGE-L against the references, and return it with scores and votes.

        Args:
            task: Name of the task.
            example: Id of the example.
            samples: The responses.
            references: The references of the example.
            scores: By a scorer's name, its score of each response.
            votes: By the name of a row of the table of methods, the weight of each response in self-consistency and
                minimum Bayes risk.
            rouge: Implementation of ROUGE-L.

        Raises:
            ValueError: There is no response, there are not as many scores as responses, or a scorer has the name of
                another row of the table.
        """
        if not samples:
            raise ValueError(f"{task} {example} has no responses to select from")
        taken = RESERVED - {SCORER} | {sample.decoding for sample in samples}
        for name, of_scorer in scores.items():
            if name in taken:
                raise ValueError(f"a scorer cannot be called {name!r}, the name of another row of the table")
            if len(of_scorer) != len(samples):
                raise ValueError(f"{task} {example} has {len(samples)} responses and {len(of_scorer)} scores")
        by_text = {text: ROUGE_L[rouge](text, references) for text in {sample.response for sample in samples}}
        quality = np.array([by_text[sample.response] for sample in samples])
        return cls(task, example, samples, quality, scores, votes, rouge, cannot_score(references, rouge))

    def likelihoods(self, *, mean: bool = False) -> Values:
        """Return the log-likelihood of each response, in nats, float64 [n]; -inf if unknown.

        Args:
            mean: Whether each is divided by the response's number of tokens.
        """
        likelihoods = [
            -np.inf if one.log_likelihood is None else one.log_likelihood / (max(one.tokens or 1, 1) if mean else 1)
            for one in self.samples
        ]
        return np.array(likelihoods)

    def restricted(self, count: int, decoding: str = "nucleus") -> "ScoredResponses":
        """Return the first `count` samples of one decoding only, as in Cappy's Table 5 (1, 4 or all 17 responses).

        If several language models generated samples, the first `count` of each model remain.

        Raises:
            ValueError: There are fewer samples of the decoding.
        """
        names = dict.fromkeys(sample.decoding for sample in self.samples)
        wanted = [decoding] if decoding in names else [name for name in names if name.endswith(f" {decoding}")]
        by_name = [[p for p, sample in enumerate(self.samples) if sample.decoding == name][:count] for name in wanted]
        if (fewest := min(map(len, by_name), default=0)) < count or count < 1:
            raise ValueError(f"{self.task} {self.id} has {fewest} {decoding} samples, and {count} are requested")
        places = sorted(place for of_name in by_name for place in of_name)
        scores, votes = ({name: values[places] for name, values in of.items()} for of in (self.scores, self.votes))
        samples = [self.samples[place] for place in places]
        return self._replace(samples=samples, quality=self.quality[places], scores=scores, votes=votes)


def vote_name(scorer: str) -> str:
    """Return the name of a scorer's votes, which also names the table rows that use them.

    >>> vote_name("scorer"), vote_name("deberta")
    ('scored', 'deberta')
    """
    return SCORED if scorer == SCORER else scorer


def calibrated_name(scorer: str) -> str:
    """Return the name of a scorer's calibrated votes, which also names the table rows that use them.

    >>> calibrated_name("scorer"), calibrated_name("deberta")
    ('calibrated', 'deberta, calibrated')
    """
    return CALIBRATED if scorer == SCORER else f"{scorer}, {CALIBRATED}"


def correctness_votes(scores: Values) -> Values:
    """Return the weights of responses in self-consistency and minimum Bayes risk: scores clipped to [0, 1].

    This is for scores that estimate correctness, such as those of a scorer that was trained by squared error.
    """
    return scores.clip(0.0, 1.0)


def preference_votes(scores: Values) -> Values:
    """Return the weights of responses in self-consistency and minimum Bayes risk, from scores of a ranking loss.

    They are softmax(scores), the strengths of the Bradley-Terry model. Such scores have no absolute level, so clipping
    them would be meaningless.
    """
    strengths = np.exp(scores - scores.max())
    return strengths / strengths.sum()


def by_self_consistency(responses: ScoredResponses) -> int:
    """Return the index of the most frequent answer (self-consistency, Wang et al., arXiv 2203.11171).

    Answers that differ only in case, white space or punctuation around them are equal; signs and decimal points count.
    """
    return _vote(responses, np.ones(len(responses.samples)))


def by_weighted_self_consistency(responses: ScoredResponses, votes: str = SCORED) -> int:
    """Return the index of the answer whose responses have the largest sum of votes (weights from a scorer).

    `votes` is the name of the votes in ``responses.votes``.
    """
    return _vote(responses, _nonzero(responses.votes[votes]))


def by_minimum_bayes_risk(responses: ScoredResponses) -> int:
    """Return the index of the response with the highest mean ROUGE-L against all responses.

    This is minimum Bayes risk decoding (Kumar and Byrne 2004).
    """
    return _least_risk(responses, np.ones(len(responses.samples)))


def by_weighted_minimum_bayes_risk(responses: ScoredResponses, votes: str = SCORED) -> int:
    """Return the index of the response with the highest mean ROUGE-L against all responses, weighted by votes.

    `votes` is the name of the votes in ``responses.votes``.
    """
    return _least_risk(responses, _nonzero(responses.votes[votes]))


SELF_SCORE, MEAN_SELF_SCORE = "self-score, sum", "self-score, mean"
"""Names of the methods that need the model's likelihoods, and the numbers of their tokens."""

UNSCORED_METHODS: Mapping[str, Callable[[ScoredResponses], int]] = {
    "self-consistency": by_self_consistency,
    "minimum Bayes risk": by_minimum_bayes_risk,
}
"""Methods that need the responses only."""


RESERVED = frozenset({SCORER, SCORED, CALIBRATED, "random", "oracle", SELF_SCORE, MEAN_SELF_SCORE, *UNSCORED_METHODS})
"""Names of rows and votes, which no scorer can have."""


def _nonzero(votes: Values) -> Values:
    """Return the votes; equal votes if all are 0."""
    return votes if votes.any() else np.ones_like(votes)


def _vote(responses: ScoredResponses, weights: Values) -> int:
    answers = [bare(sample.response) for sample in responses.samples]
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        totals[answer] = totals.get(answer, 0.0) + float(weight)
    return answers.index(max(totals, key=totals.__getitem__))


def _least_risk(responses: ScoredResponses, weights: Values) -> int:
    texts = list(dict.fromkeys(sample.response for sample in responses.samples))
    weight = dict.fromkeys(texts, 0.0)
    for sample, added in zip(responses.samples, weights, strict=True):
        weight[sample.response] += float(added)
    gain = [sum(weight[other] * _similarity(text, other, responses.rouge) for other in texts) for text in texts]
    best = texts[int(np.argmax(gain))]
    return [sample.response for sample in responses.samples].index(best)


@lru_cache(maxsize=2**20)  # every method and every table compares the same responses
def _similarity(text: str, other: str, rouge: Rouge) -> float:
    return ROUGE_L[rouge](text, [other])


def ranking_scores(responses: ScoredResponses) -> dict[str, Values]:
    """Return the scores [n] of each method that chooses the response with the highest score, by the method's name.

    These methods are the scorers and, where the samples have likelihoods, self-scoring: by the summed log-likelihood as
    in Cappy's Table 2, and by its mean over tokens as in Cappy's repository.
    """
    scores: dict[str, Values] = {}
    texts = [sample for sample in responses.samples if sample.response]
    if all(sample.log_likelihood is not None for sample in texts):
        scores[SELF_SCORE] = responses.likelihoods()
        if all(sample.tokens is not None for sample in texts):
            scores[MEAN_SELF_SCORE] = responses.likelihoods(mean=True)
    return scores | dict(responses.scores)


def choices(responses: ScoredResponses) -> dict[str, int]:
    """Return the index of the response that each selection method chooses, by the method's name.

    The methods are the single decodings (the decoding's first sample is chosen), self-consistency, minimum Bayes risk,
    the language model's likelihoods and the scorers (``ranking_scores``), and self-consistency and minimum Bayes risk
    weighted by each of ``responses.votes``. Among equal scores or votes, the first response is chosen.
    """
    weighted: dict[str, Callable[[ScoredResponses], int]] = {}
    for name in responses.votes:
        weighted[f"self-consistency, {name}"] = partial(by_weighted_self_consistency, votes=name)
        weighted[f"minimum Bayes risk, {name}"] = partial(by_weighted_minimum_bayes_risk, votes=name)
    singles = {sample.decoding: place for place, sample in reversed(list(enumerate(responses.samples)))}
    chosen = {name: singles[name] for name in reversed(singles)}
    chosen |= {name: choose(responses) for name, choose in UNSCORED_METHODS.items()}
    chosen |= {name: int(scores.argmax()) for name, scores in ranking_scores(responses).items()}
    return chosen | {name: choose(responses) for name, choose in weighted.items()}
