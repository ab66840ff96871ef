"""ROUGE-L with stemming: our own fast implementation, and Google's rouge-score package.

Super-NaturalInstructions is scored with ``RougeScorer(["rougeL"], use_stemmer=True)``. Our implementation takes the
same words, caches the stems of the same Porter stemmer, and takes the longest common subsequence from rapidfuzz. Both
give the same floating-point numbers; ours is many times faster.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from rapidfuzz.distance import LCSseq

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer

_WORD = re.compile(r"[a-z0-9]+")


Rouge = Literal["exact", "rouge_score"]
"""Which implementation computes ROUGE-L: ours, or Google's package."""


class _Stems(dict[str, str]):
    """Stems by word, computed once each; twice as fast as an lru_cache, and some 50 MB when full."""

    limit = 2**18

    @cached_property
    def stemmer(self) -> "PorterStemmer":
        """NLTK's, imported on first use: it takes a second, and a report stems no word."""
        from nltk.stem.porter import PorterStemmer

        return PorterStemmer()

    def __missing__(self, word: str) -> str:
        if len(self) >= self.limit:
            self.clear()
        stem = self[word] = self.stemmer.stem(word) if len(word) > 3 else word
        return stem


_STEMS = _Stems()


@lru_cache(maxsize=2**14)
def tokenize(text: str) -> tuple[str, ...]:
    """Lower-cased ASCII words and numbers; words of more than three letters are stemmed.

    A text without any (Hindi, "?") has no tokens, and scores 0 even against itself.

    >>> tokenize("The cats' naïve owners, 3 of them")
    ('the', 'cat', 'na', 've', 'owner', '3', 'of', 'them')
    """
    # Lower case first: the Kelvin sign becomes an ASCII k, as it does in rouge_score.
    return tuple(map(_STEMS.__getitem__, _WORD.findall(text.lower())))


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 in [0, 1] against the best reference.

    >>> rouge_l("the cat sat", ["a cat sat down", "the cat"])
    0.8
    """
    _require_references(prediction, references)
    predicted = tokenize(prediction)
    return max([_f1(tokenize(reference), predicted) for reference in references])


def _f1(reference: tuple[str, ...], predicted: tuple[str, ...]) -> float:
    if not reference or not predicted:
        return 0.0
    common = LCSseq.similarity(reference, predicted)
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def google_rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 in [0, 1] against the best reference, by Google's rouge-score with its stemmer.

    >>> round(google_rouge_l("the cat sat", ["a cat sat down", "the cat"]), 12)
    0.8
    """
    _require_references(prediction, references)
    return float(_google_scorer().score_multi(references, prediction)["rougeL"].fmeasure)


@cache
def _google_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def _require_references(prediction: str, references: Sequence[str]) -> None:
    if not references:
        raise ValueError(f"ROUGE-L needs at least one reference, got none for the prediction {prediction[:60]!r}")


ROUGE_L: Mapping[Rouge, Callable[[str, Sequence[str]], float]] = {"exact": rouge_l, "rouge_score": google_rouge_l}
"""The implementations by name."""
