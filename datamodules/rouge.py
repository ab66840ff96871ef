"""ROUGE-L with stemming, in three implementations: a fast one, Google's rouge-score package, and one for all scripts.

Super-NaturalInstructions is scored with ``RougeScorer(["rougeL"], use_stemmer=True)``. Our fast implementation reads
the same words, caches the stems of the same Porter stemmer, and takes the longest common subsequence from rapidfuzz.
Both return the same floating-point numbers; ours is many times faster.

Both read the letters a to z and digits only: Hindi scores 0 even against itself, and of "2019年" only the number is
read. ``unicode_rouge_l`` reads every script, and equals the other two on ASCII text.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import regex
from rapidfuzz.distance import LCSseq

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer

_WORD = re.compile(r"[a-z0-9]+")


_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that are written without spaces between words."""


_UNICODE_WORD = regex.compile(
    rf"(?V1)[[{_UNSPACED}]--\p{{M}}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[[{_UNSPACED}]--\p{{M}}]]+"
)
_FORMAT = regex.compile(r"\p{Cf}+")


Rouge = Literal["exact", "rouge_score", "unicode"]
"""Implementation of ROUGE-L: ``exact`` is the fast one, ``rouge_score`` Google's, ``unicode`` that for all scripts."""


class _Stems(dict[str, str]):
    """Stems by word, each computed once; twice as fast as an lru_cache, and some 50 MB when full."""

    limit = 2**18

    @cached_property
    def stemmer(self) -> "PorterStemmer":
        """NLTK's Porter stemmer, imported on first use: it takes a second, and a report stems no word."""
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
    """Return the ASCII words and numbers of a text in lower case; words of more than three letters are stemmed.

    A text without any (Hindi, "?") has no tokens, and scores 0 even against itself.

    >>> tokenize("The cats' naïve owners, 3 of them")
    ('the', 'cat', 'na', 've', 'owner', '3', 'of', 'them')
    """
    # Lower case first: the Kelvin sign becomes an ASCII k, as it does in rouge_score.
    return tuple(map(_STEMS.__getitem__, _WORD.findall(text.lower())))


@lru_cache(maxsize=2**14)
def unicode_tokenize(text: str) -> tuple[str, ...]:
    """Return the words and numbers of any script, case-folded and in Unicode's form NFKC; ASCII words are stemmed.

    Combining marks belong to their letter. In Chinese, Japanese, Thai, Lao, Khmer and Burmese each letter is a token,
    since no space separates words. Joiners, soft hyphens and direction marks are left out.

    >>> unicode_tokenize("The cats' naïve owner: 2019年, नमस्ते"), unicode_tokenize("東京")
    (('the', 'cat', 'naïve', 'owner', '2019', '年', 'नमस्ते'), ('東', '京'))
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = _UNICODE_WORD.findall(_FORMAT.sub("", plain))
    return tuple(_STEMS[word] if word.isascii() else word for word in words)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the ROUGE-L F1 in [0, 1] of a prediction against the reference that it is most similar to.

    >>> rouge_l("the cat sat", ["a cat sat down", "the cat"])
    0.8

    Raises:
        ValueError: There are no references.
    """
    _require_references(prediction, references)
    predicted = tokenize(prediction)
    return max([_f1(tokenize(reference), predicted) for reference in references])


def unicode_rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the ROUGE-L F1 in [0, 1] of a prediction against its most similar reference, for text in any script.

    On ASCII text it equals ``rouge_l``, which reads the letters a to z and digits only.

    >>> unicode_rouge_l("我喜欢猫", ["我喜欢狗"]), rouge_l("我喜欢猫", ["我喜欢猫"])
    (0.75, 0.0)
    """
    _require_references(prediction, references)
    predicted = unicode_tokenize(prediction)
    return max([_f1(unicode_tokenize(reference), predicted) for reference in references])


def _f1(reference: tuple[str, ...], predicted: tuple[str, ...]) -> float:
    if not reference or not predicted:
        return 0.0
    common = LCSseq.similarity(reference, predicted)
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def google_rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the ROUGE-L F1 in [0, 1] against the best reference, by Google's rouge-score with its stemmer.

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


ROUGE_L: Mapping[Rouge, Callable[[str, Sequence[str]], float]] = {
    "exact": rouge_l,
    "rouge_score": google_rouge_l,
    "unicode": unicode_rouge_l,
}
"""Function of (prediction, references) for each implementation."""


def cannot_score(references: Sequence[str], rouge: Rouge = "exact") -> bool:
    """Return whether ROUGE-L cannot score against any of these references: it reads less than half of their letters.

    Blank references do not count.

    >>> cannot_score(["नमस्ते"]), cannot_score(["2019年に"]), cannot_score(["?"]), cannot_score(["déjà vu"])
    (True, True, True, False)
    >>> cannot_score(["नमस्ते"], "unicode")
    False

    Args:
        references: References of one example.
        rouge: Implementation of ROUGE-L: ``exact``, ``rouge_score`` or ``unicode``.
    """
    texts = [reference for reference in references if reference.strip()]
    return bool(texts) and not any(_reads(text, rouge) for text in texts)


def _reads(text: str, rouge: Rouge) -> bool:
    if rouge == "unicode":
        return bool(unicode_tokenize(text))
    if text.isascii():
        return bool(tokenize(text))
    letters = [letter for letter in text.lower() if letter.isalpha()]
    return bool(tokenize(text)) and 2 * sum(map(str.isascii, letters)) >= len(letters)
