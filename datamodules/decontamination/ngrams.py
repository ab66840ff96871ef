"""Hashes of all word n-grams of many texts, to find text that two data sets share.

A word is a run of letters and digits after lower-casing; every other character separates words. Texts are hashed as the
bytes of one large array. A polynomial hash, computed from prefix sums, gives each word and then each n-gram a 64-bit
number without creating a Python object for it. Equal n-grams have equal hashes. The chance that any two different
n-grams among 10^9 of training and 10^7 of evaluation have equal hashes is about 10^-3.

    text        The cat sat. The CAT!
    bytes       t h e _ c a t _ s a t _ _ t h e _ c a t _
    words       the     cat     sat       the   cat
    bigrams     the cat, cat sat, sat the, the cat        n = 2: four hashes, the first equals the last
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BATCH_BYTES = 2**19
"""Bytes of text hashed together: enough to make Python's overhead small, few enough for the processor's cache."""

_BASE = 0x9E3779B97F4A7C15
_WRAP = 2**64


class Ngrams(NamedTuple):
    """The G word n-grams of some texts in order, as hashes, with their places in the texts.

    Args:
        hashes: uint64 [G], hash of each n-gram.
        texts: int64 [G], index of each n-gram's text.
        starts: int64 [G], index of each n-gram's first byte in ``joined``.
        ends: int64 [G], index of the byte after its last.
        joined: The lower-cased texts in UTF-8, separated by one byte.
    """

    hashes: NDArray[np.uint64]
    texts: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    joined: bytes

    def words(self, place: int) -> str:
        """Return the text of n-gram `place`, lower-cased, with the characters between its words."""
        return self.joined[self.starts[place] : self.ends[place]].decode(errors="replace")


def ngrams(texts: Sequence[str], n: int) -> Ngrams:
    """Return all n-grams of `n` words of the texts; a text of fewer words has none.

    In scripts without spaces (Chinese, Japanese, Thai) a run of characters is one word.

    Raises:
        ValueError: `n` is below 1.

    >>> bigrams = ngrams(["The cat sat. The CAT!", "a cat"], n=2)
    >>> [bigrams.words(place) for place in range(4)], bigrams.texts.tolist()
    (['the cat', 'cat sat', 'sat. the', 'the cat'], [0, 0, 0, 0, 1])
    >>> bool(bigrams.hashes[0] == bigrams.hashes[3])
    True
    """
    if n < 1:
        raise ValueError(f"an n-gram needs at least one word, got n={n}")
    encoded = [text.lower().encode(errors="replace") for text in texts]
    joined = b"\n".join(encoded)
    of_bytes = np.frombuffer(joined, dtype=np.uint8)
    starts, ends = _words(of_bytes)
    empty = np.empty(0, dtype=np.int64)
    if len(starts) < n:
        return Ngrams(empty.astype(np.uint64), empty, empty, empty, joined)
    words = _window_hashes(of_bytes.astype(np.uint64) + np.uint64(1), starts, ends)
    first = np.arange(len(starts) - n + 1)
    hashes = _window_hashes(words, first, first + n)
    words_before = np.searchsorted(starts, np.cumsum([0, *(len(text) + 1 for text in encoded)]))
    text_of = np.repeat(np.arange(len(texts)), np.diff(words_before))
    whole = np.flatnonzero(text_of[: len(first)] == text_of[n - 1 :])
    return Ngrams(hashes[whole], text_of[whole], starts[whole], ends[whole + n - 1], joined)


def _words(of_bytes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of each word's first byte, and of the byte after its last."""
    inside = _IS_WORD[of_bytes]
    # Punctuation beyond ASCII: U+0080 to U+00BF, U+2000 to U+203F (dashes, quotes), U+3000 to U+303F (ideographic).
    if not of_bytes.size or of_bytes.max() >= 0x80:
        inside = inside.copy()
        _clear(inside, np.flatnonzero(of_bytes == 0xC2), 2)
        following = np.append(of_bytes[1:], 0) if of_bytes.size else of_bytes
        _clear(inside, np.flatnonzero(((of_bytes == 0xE2) | (of_bytes == 0xE3)) & (following == 0x80)), 3)
    bounded = np.zeros(len(inside) + 2, dtype=bool)
    bounded[1:-1] = inside
    edges = np.flatnonzero(bounded[1:] != bounded[:-1])
    return edges[::2], edges[1::2]


def _clear(inside: NDArray[np.bool_], places: NDArray[np.int64], width: int) -> None:
    for offset in range(width):
        inside[np.minimum(places + offset, len(inside) - 1)] = False


def _window_hashes(
    values: NDArray[np.uint64], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return the hash of each window: the sum of values[start + k] * BASE^k modulo 2^64, mixed, from prefix sums."""
    powers, inverse = _powers(1 << max(len(values) - 1, 1).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return _mixed((sums[ends] - sums[starts]) * inverse[starts])


@lru_cache(maxsize=8)
def _powers(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return BASE^k and BASE^-k modulo 2^64 for k < size; BASE has an inverse because it is odd."""
    tables = []
    for base in (_BASE, pow(_BASE, -1, _WRAP)):
        factors = np.full(size, base, dtype=np.uint64)
        factors[0] = 1
        tables.append(np.multiply.accumulate(factors))
    return tables[0], tables[1]


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all bits (the finalizer of splitmix64, Steele et al. 2014), since the low bits are weak."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _word_bytes() -> NDArray[np.bool_]:
    """Return bool [256]: whether each byte is part of a word."""
    table = np.zeros(256, dtype=bool)
    table[[ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]] = True
    table[0x80:] = True  # every byte of a UTF-8 sequence outside ASCII
    return table


_IS_WORD = _word_bytes()
