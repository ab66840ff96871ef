"""Orders of a million items that are never written down: item i of a shuffled range, computed from i alone."""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

ROUNDS, SMALL_ROUNDS, SMALL = 8, 48, 64
"""Half-rounds of the Feistel network. In a range of a few items a half-round moves little: those take more of them."""


def permuted(places: NDArray[np.integer], sizes: NDArray[np.integer], keys: Words) -> NDArray[np.int64]:
    """Shuffled places, element by element: ``places[i]`` after a shuffle of ``range(sizes[i])`` chosen by ``keys[i]``.

    For one size and one key it is a permutation: a Feistel network over the next power of two, walked until it comes
    back into the range (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"). Nothing is stored, so a task
    of 100 million examples costs as much as one of ten.

    >>> sorted(permuted(np.arange(5), np.full(5, 5), np.full(5, 7, dtype=np.uint64)).tolist())
    [0, 1, 2, 3, 4]
    """
    shuffled = np.empty(len(places), dtype=np.int64)
    small = np.asarray(sizes) <= SMALL
    for chosen, rounds in ((small, SMALL_ROUNDS), (~small, ROUNDS)):
        shuffled[chosen] = _walked(np.asarray(places)[chosen], np.asarray(sizes)[chosen], keys[chosen], rounds)
    return shuffled


def mixed(words: Words) -> Words:
    """A bijection of 64-bit words that leaves no pattern (the finalizer of SplitMix64, Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _walked(places: NDArray[np.integer], sizes: NDArray[np.integer], keys: Words, rounds: int) -> Words:
    limits = sizes.astype(np.uint64)
    bits = np.maximum(np.ceil(np.log2(np.maximum(limits, 1))), 2).astype(np.uint64)
    shuffled = _shuffled(places.astype(np.uint64), bits, keys, rounds)
    outside = np.flatnonzero(shuffled >= limits)
    while len(outside):
        shuffled[outside] = _shuffled(shuffled[outside], bits[outside], keys[outside], rounds)
        outside = outside[shuffled[outside] >= limits[outside]]
    return shuffled


def _shuffled(words: Words, bits: Words, keys: Words, rounds: int) -> Words:
    low_bits = bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    low, high = words & low_mask, words >> low_bits
    for number in range(0, rounds, 2):
        low ^= mixed((high << np.uint64(8)) + keys + np.uint64(number)) & low_mask
        high ^= mixed((low << np.uint64(8)) + keys + np.uint64(number + 1)) & high_mask
    return (high << low_bits) | low
