"""Shuffles that are computed element by element."""

from collections import Counter

import numpy as np
import pytest

from crosstask.datamodules.mixture.permutation import mixed, permuted


def shuffle(size: int, key: int) -> list[int]:
    keys = mixed(np.full(size, key, dtype=np.uint64))
    return permuted(np.arange(size), np.full(size, size), keys).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 1000, 4097])
def test_it_is_a_permutation(size: int) -> None:
    assert sorted(shuffle(size, key=1)) == list(range(size))


def test_elements_of_different_shuffles_are_computed_together() -> None:
    sizes, places = np.array([5, 1000, 7, 5]), np.array([4, 999, 0, 4])
    keys = np.array([11, 12, 13, 14], dtype=np.uint64)
    together = permuted(places, sizes, keys).tolist()
    alone = [permuted(places[i : i + 1], sizes[i : i + 1], keys[i : i + 1]).item() for i in range(4)]
    assert together == alone


@pytest.mark.parametrize("size", [3, 4, 5])
def test_all_orders_of_a_few_items_are_equally_likely(size: int) -> None:
    """Chi-squared over the orders of 12,000 keys: its 99.9% quantile for 5, 23 and 119 degrees."""
    keys = mixed(np.arange(12_000, dtype=np.uint64))
    columns = [permuted(np.full(12_000, place), np.full(12_000, size), keys) for place in range(size)]
    seen = Counter(map(tuple, np.stack(columns, axis=1).tolist()))
    orders = {3: 6, 4: 24, 5: 120}[size]
    expected = 12_000 / orders
    assert len(seen) == orders
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < {3: 20.5, 4: 49.7, 5: 172.7}[size]


def test_neighbours_are_not_kept() -> None:
    order = np.array(shuffle(50_000, key=3))
    assert abs(np.corrcoef(order, np.arange(50_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02
    assert np.mean(np.abs(np.diff(order)) == 1) < 5 / 50_000 * 10


def test_two_keys_give_unrelated_orders() -> None:
    first, second = shuffle(10_000, key=1), shuffle(10_000, key=2)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10  # one is expected
