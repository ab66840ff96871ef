"""Pseudorandom permutations that are computed, not stored: item i of a shuffled range follows from i and a key."""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

ROUNDS, SMALL_ROUNDS, SMALL = 8, 48, 64
"""Half-rounds of the Feistel network: 8, but 48 for ranges of up to 64 items, which a half-round shuffles less."""


def permuted(places: NDArray[np.integer], sizes: NDArray[np.integer], keys: Words) -> NDArray[np.int64]:
    """Permute numbers pseudorandomly within their ranges, without storing a permutation.

    Element i of the result, int64 [n], is the image of ``places[i]`` under a permutation of ``range(sizes[i])`` that
    follows from ``sizes[i]`` and ``keys[i]``. It is a Feistel network over the next power of two, applied until the
    result is in the range (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"). A range of 100 million
    items costs as much as one of ten.

    Args:
        places: int [n], numbers to permute, below their range's size.
        sizes: int [n], size of each number's range.
        keys: uint64 [n], key of each number's permutation.

    >>> sorted(permuted(np.arange(5), np.full(5, 5), np.full(5, 7, dtype=np.uint64)).tolist())
    [0, 1, 2, 3, 4]
    """
    shuffled = np.empty(len(places), dtype=np.int64)
    small = np.asarray(sizes) <= SMALL
    for chosen, rounds in ((small, SMALL_ROUNDS), (~small, ROUNDS)):
        shuffled[chosen] = _walked(np.asarray(places)[chosen], np.asarray(sizes)[chosen], keys[chosen], rounds)
    return shuffled


def mixed(words: Words) -> Words:
    """Hash 64-bit words by a bijection (the finalizer of SplitMix64, Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _walked(places: NDArray[np.integer], sizes: NDArray[np.integer], keys: Words, rounds: int) -> Words:
    """Apply the Feistel network until every result is below its size (cycle walking)."""
    limits = sizes.astype(np.uint64)
    bits = np.maximum(np.ceil(np.log2(np.maximum(limits, 1))), 2).astype(np.uint64)
    shuffled = _shuffled(places.astype(np.uint64), bits, keys, rounds)
    outside = np.flatnonzero(shuffled >= limits)
    while len(outside):
        shuffled[outside] = _shuffled(shuffled[outside], bits[outside], keys[outside], rounds)
        outside = outside[shuffled[outside] >= limits[outside]]
    return shuffled


def _shuffled(words: Words, bits: Words, keys: Words, rounds: int) -> Words:
    """Apply the Feistel network once, to words of `bits` bits."""
    low_bits = bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    low, high = words & low_mask, words >> low_bits
    for number in range(0, rounds, 2):
        low ^= mixed((high << np.uint64(8)) + keys + np.uint64(number)) & low_mask
        high ^= mixed((low << np.uint64(8)) + keys + np.uint64(number + 1)) & high_mask
    return (high << low_bits) | low
