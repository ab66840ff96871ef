"""Scores of a prompt's options from their log-likelihoods, and the choice of the best one."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

Score = Literal["sum", "token_mean", "byte_mean", "pmi"]
"""How options are compared: by their log-likelihood (OPT-IML's own way), by its mean over tokens or UTF-8 bytes, or
by how much more likely the prompt makes them than an unconditional prompt does (pointwise mutual information)."""


class OptionScores(NamedTuple):
    """Scores of the C options of one prompt, in their order; the higher, the likelier.

    Args:
        sum: Log-likelihoods in nats, eos included where options end in it.
        token_mean: The same, divided by tokens.
        byte_mean: The same, divided by the UTF-8 bytes of the option's text.
        pmi: ``sum`` less the log-likelihood after the unconditional prompt; None where there is no such prompt.
    """

    sum: tuple[float, ...]
    token_mean: tuple[float, ...]
    byte_mean: tuple[float, ...]
    pmi: tuple[float, ...] | None = None

    def by(self, score: Score) -> tuple[float, ...]:
        """The scores of one kind.

        Raises:
            ValueError: There are none of that kind.
        """
        if score not in get_args(Score):
            raise ValueError(f"options are scored by one of {', '.join(get_args(Score))}, got {score!r}")
        scores = getattr(self, score)
        if scores is None:
            raise ValueError("pmi compares with an unconditional prompt, and none was given, e.g. 'Answer:'")
        return scores

    def best(self, score: Score = "sum") -> "Choice":
        """The likeliest option; of equals, the first.

        Raises:
            ValueError: There is no option to choose, or a score is no number.
        """
        scores = self.by(score)
        if not scores:
            raise ValueError("there is no option to choose from")
        if any(map(math.isnan, scores)):
            raise ValueError(f"options have no likelihood, got {scores}: the model's logits are not finite")
        place = max(range(len(scores)), key=scores.__getitem__)
        return Choice(place, scores.count(scores[place]) > 1)


class Choice(NamedTuple):
    """Place of the chosen option, and whether another one has the same score."""

    place: int
    tied: bool


def option_scores(
    sums: Sequence[float], lengths: Sequence[int], texts: Sequence[str], unconditional: Sequence[float] | None = None
) -> OptionScores:
    """All scores of one prompt's options.

    Args:
        sums: Log-likelihoods.
        lengths: Scored tokens.
        texts: Of the options.
        unconditional: Log-likelihoods after the unconditional prompt.
    """
    n_bytes = [len(text.strip().encode()) for text in texts]
    return OptionScores(
        sum=tuple(sums),
        token_mean=tuple(total / length for total, length in zip(sums, lengths, strict=True)),
        byte_mean=tuple(total / length for total, length in zip(sums, n_bytes, strict=True)),
        pmi=None if unconditional is None else tuple(a - b for a, b in zip(sums, unconditional, strict=True)),
    )
