"""Exact ROUGE-L, as google's rouge_score computes it with stemming, and many times faster.

Super-NaturalInstructions is scored with ``RougeScorer(["rougeL"], use_stemmer=True)``. Its tokenizer and Porter stemmer
are used here as they are, with their work remembered; the longest common subsequence comes from rapidfuzz. The scores
are the same floating-point numbers.
"""

from collections.abc import Sequence
from functools import lru_cache

from nltk.stem.porter import PorterStemmer
from rapidfuzz.distance import LCSseq
from rouge_score import tokenize as rouge_tokenize

_STEMMER = PorterStemmer()


@lru_cache(maxsize=2**18)
def _stem(word: str) -> str:
    return _STEMMER.stem(word) if len(word) > 3 else word


@lru_cache(maxsize=2**14)
def tokenize(text: str) -> tuple[str, ...]:
    """Lower-cased ASCII words and numbers; words of more than three letters are stemmed.

    A text without any (Hindi, "?") has no tokens, and scores 0 even against itself.

    >>> tokenize("The cats' naïve owners, 3 of them")
    ('the', 'cat', 'na', 've', 'owner', '3', 'of', 'them')
    """
    words = rouge_tokenize.NON_ALPHANUM_RE.sub(" ", text.lower())
    stemmed = (_stem(word) for word in rouge_tokenize.SPACES_RE.split(words))
    return tuple(word for word in stemmed if rouge_tokenize.VALID_TOKEN_RE.match(word))


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 in [0, 1], not percent; of several references, the best.

    >>> rouge_l("the cat sat", ["a cat sat down", "the cat"])
    0.8
    """
    if not references:
        raise ValueError(f"ROUGE-L needs at least one reference, got none for the prediction {prediction[:60]!r}")
    predicted = tokenize(prediction)
    return max(_f1(tokenize(reference), predicted) for reference in references)


def _f1(reference: tuple[str, ...], predicted: tuple[str, ...]) -> float:
    if not reference or not predicted:
        return 0.0
    common = LCSseq.similarity(reference, predicted)
    precision, recall = common / len(predicted), common / len(reference)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
