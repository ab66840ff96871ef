"""Bin packing: from the sizes of documents to the documents of each row of fixed capacity.

No document is split over rows. Only indices are computed here (collate.py copies tokens), so that ten million documents
are packed in seconds.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PackedRows(NamedTuple):
    """Result of bin packing: which documents are in which row. Row r holds ``order[starts[r]:starts[r + 1]]``.

    Args:
        order: int64 [n], a permutation of the documents' indices.
        starts: int64 [rows + 1], index into `order` of the first document of each row; the last is n.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> NDArray[np.int64]:
        """Return the indices of the documents of one row."""
        return self.order[self.starts[index] : self.starts[index + 1]]


Packing = Callable[[NDArray[np.integer], int, np.random.Generator], PackedRows]
"""A function (sizes, capacity, generator) -> PackedRows.

``sizes`` int [n] are the columns of each document, from 1 to ``capacity``, the columns of a row. The generator is used
for random orders.
"""


def best_fit(sizes: NDArray[np.integer], capacity: int, generator: np.random.Generator) -> PackedRows:
    """Pack tokenized examples (documents) into rows by best-fit decreasing, so that little padding is left.

    From the longest on, each document goes into the row in which it leaves the least room. Documents of one size, and
    rows with the same room left, are interchangeable. They are assigned in bulk, so that the cost depends on the number
    of different sizes rather than of documents (after Krell et al., arXiv 2107.02027). The assignment of equally long
    documents to rows, the order within a row and the order of the rows are random.

    Args:
        sizes: int [n], columns of a row that each document takes.
        capacity: Columns of a row.
        generator: Generator of the random orders.

    Raises:
        ValueError: A size is below 1 or above the capacity.

    >>> rows = best_fit(np.array([5, 3, 3, 2, 5]), 8, np.random.default_rng(0))
    >>> sorted(sorted(rows.row(r).tolist()) for r in range(len(rows)))[0]  # 5 + 3, 5 + 3, and 2 alone
    [0, 1]
    """
    _check(sizes, capacity)
    shuffled = generator.permutation(len(sizes))
    by_size = shuffled[np.argsort(-np.asarray(sizes)[shuffled], kind="stable")]  # longest first
    values, counts = np.unique(np.asarray(sizes)[by_size], return_counts=True)
    row_of = np.empty(len(sizes), dtype=np.int64)
    rooms: dict[int, list[NDArray[np.int64]]] = {}  # room left -> chunks of rows that have it
    available: list[int] = []  # the keys of rooms, sorted
    n_rows = placed = 0

    def put(room: int, rows: NDArray[np.int64]) -> None:
        if room not in rooms:
            insort(available, room)
            rooms[room] = []
        rooms[room].append(rows)

    for size, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            place = bisect_left(available, size)
            if place == len(available):  # no open row has room: open new ones, each filled with this size
                per_row = min(capacity // size, left)
                opened = max(left // per_row, 1)
                rows = np.arange(n_rows, n_rows + opened)
                row_of[placed : placed + opened * per_row] = np.repeat(rows, per_row)
                placed, left, n_rows = placed + opened * per_row, left - opened * per_row, n_rows + opened
                put(capacity - size * per_row, rows)
                continue
            room = available[place]
            chunk = rooms[room].pop()
            taken, rest = chunk[:left], chunk[left:]
            if len(rest):
                rooms[room].append(rest)
            elif not rooms[room]:
                del rooms[room]
                available.pop(place)
            row_of[placed : placed + len(taken)] = taken
            placed, left = placed + len(taken), left - len(taken)
            put(room - size, taken)
    row_of = generator.permutation(n_rows)[row_of]
    within = generator.permutation(len(sizes))
    return _rows(by_size, row_of, within, n_rows)


def in_order(sizes: NDArray[np.integer], capacity: int, generator: np.random.Generator) -> PackedRows:
    """Pack tokenized examples into rows in their order, as OPT-IML's released program does.

    An example that does not fit into the current row begins a new one.

    Args:
        sizes: int [n], columns of a row that each document takes.
        capacity: Columns of a row.
        generator: Not used; ``best_fit`` draws from it.

    Raises:
        ValueError: A size is below 1 or above the capacity.

    >>> in_order(np.array([5, 3, 3, 2, 5]), 8, np.random.default_rng(0)).starts
    array([0, 2, 4, 5])
    """
    _check(sizes, capacity)
    ends = np.cumsum(sizes)
    starts = [0]
    while starts[-1] < len(sizes):
        used = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(int(np.searchsorted(ends, used + capacity, side="right")))
    return PackedRows(np.arange(len(sizes)), np.array(starts))


def one_per_row(sizes: NDArray[np.integer], capacity: int, generator: np.random.Generator) -> PackedRows:
    """Put every tokenized example into a padded row of its own, for models that cannot keep packed examples apart.

    Args:
        sizes: int [n], columns of a row that each document takes.
        capacity: Columns of a row.
        generator: Not used; ``best_fit`` draws from it.

    Raises:
        ValueError: A size is below 1 or above the capacity.
    """
    _check(sizes, capacity)
    return PackedRows(np.arange(len(sizes)), np.arange(len(sizes) + 1))


def _rows(documents: NDArray, row_of: NDArray, within: NDArray, n_rows: int) -> PackedRows:
    order = documents[np.lexsort((within, row_of))]
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=n_rows))])
    return PackedRows(order, starts.astype(np.int64))


def _check(sizes: NDArray[np.integer], capacity: int) -> None:
    if len(sizes) and (sizes.min() < 1 or sizes.max() > capacity):
        raise ValueError(
            f"every document must take 1 to {capacity} columns of a row, got {sizes.min()} to {sizes.max()}"
        )
