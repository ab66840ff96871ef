"""Batches of at most a given number of tokens, for inference."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def budget_batches(sizes: Sequence[int] | NDArray[np.integer], budget: int, *, padded: bool = False) -> list[list[int]]:
    """Divide items into batches of at most `budget` tokens, and return the indices of each batch's items.

    The largest items come first, so that running out of memory happens at the first batch. An item larger than the
    budget is a batch by itself.

    Args:
        sizes: Tokens of each item.
        budget: Maximum number of tokens of a batch.
        padded: Whether items are padded to the largest of their batch, so that a batch has (items x largest item)
            tokens. By default it has the sum of its items' tokens.

    >>> budget_batches([2, 9, 3, 8], budget=12)
    [[1], [3, 2], [0]]
    >>> budget_batches([2, 9, 3, 8], budget=18, padded=True)
    [[1, 3], [2, 0]]
    """
    tokens = np.asarray(sizes, dtype=np.int64)
    order = np.argsort(-tokens, kind="stable")
    batches: list[list[int]] = []
    used = budget
    row = 0  # tokens that every item of the last batch takes, where it is padded
    for item, size in zip(order.tolist(), tokens[order].tolist(), strict=True):
        added = row if padded else size
        if batches and used + added <= budget:
            batches[-1].append(item)
            used += added
        else:
            batches.append([item])
            used = row = size
    return batches
