"""Scores of a prompt's options from their log-likelihoods, and the choice of the best option."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, get_args

Score = Literal["sum", "token_mean", "byte_mean", "pmi"]
"""Score of an option, the four of Brown et al. (arXiv 2005.14165, section 2.4): its log-likelihood (as in OPT-IML), the
mean of that over tokens or UTF-8 bytes, or pointwise mutual information with the prompt."""


def score_of(score: Score | Mapping[str, Score], task: str) -> Score:
    """Return the kind of score by which the options of a task are compared.

    `score` is one kind for all tasks, or a mapping from patterns of task names; the first pattern that matches counts.

    >>> score_of({"opt/arc_*": "pmi", "*": "token_mean"}, "opt/piqa")
    'token_mean'

    Raises:
        ValueError: No pattern matches.
    """
    if isinstance(score, str):
        return score
    for pattern, kind in score.items():
        if fnmatchcase(task, pattern):
            return kind
    raise ValueError(f"score has no pattern for the task {task!r}, only {', '.join(score)}; end it with '*': sum")


class OptionScores(NamedTuple):
    """Scores of the C options of one prompt, one tuple per kind of score; higher is likelier.

    Args:
        sum: Log-likelihoods in nats, including that of eos if options end with it.
        token_mean: ``sum`` divided by the number of tokens.
        byte_mean: ``sum`` divided by the UTF-8 bytes of the option's text.
        pmi: ``sum`` minus the log-likelihood after the unconditional prompt; None without such a prompt.
    """

    sum: tuple[float, ...]
    token_mean: tuple[float, ...]
    byte_mean: tuple[float, ...]
    pmi: tuple[float, ...] | None = None

    def by(self, score: Score) -> tuple[float, ...]:
        """Return the scores of one kind.

        Raises:
            ValueError: There is no such kind, or pmi was not computed.
        """
        if score not in get_args(Score):
            raise ValueError(f"options are scored by one of {', '.join(get_args(Score))}, got {score!r}")
        scores = getattr(self, score)
        if scores is None:
            raise ValueError("pmi needs an unconditional prompt, e.g. 'Answer:', and none was given")
        return scores

    def best(self, score: Score = "sum") -> "Choice":
        """Return the option with the highest score; the first of equal ones.

        Raises:
            ValueError: There is no option, or a score is NaN.
        """
        scores = self.by(score)
        if not scores:
            raise ValueError("there are no options to choose from")
        if any(map(math.isnan, scores)):
            raise ValueError(f"options have no likelihood, got {scores}: the model's logits are not finite")
        place = max(range(len(scores)), key=scores.__getitem__)
        return Choice(place, scores.count(scores[place]) > 1)


class Choice(NamedTuple):
    """The chosen option.

    Args:
        place: Index of the option.
        tied: Whether another option has the same score.
    """

    place: int
    tied: bool


def option_scores(
    sums: Sequence[float], lengths: Sequence[int], texts: Sequence[str], unconditional: Sequence[float] | None = None
) -> OptionScores:
    """Return all kinds of scores of one prompt's options.

    Args:
        sums: Log-likelihood of each option, in nats.
        lengths: Number of scored tokens of each option.
        texts: Text of each option.
        unconditional: Log-likelihood of each option after the unconditional prompt; None to compute no pmi.
    """
    n_bytes = [len(text.strip().encode()) for text in texts]
    return OptionScores(
        sum=tuple(sums),
        token_mean=tuple(total / length for total, length in zip(sums, lengths, strict=True)),
        byte_mean=tuple(total / length for total, length in zip(sums, n_bytes, strict=True)),
        pmi=None if unconditional is None else tuple(a - b for a, b in zip(sums, unconditional, strict=True)),
    )
