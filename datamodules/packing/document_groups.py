"""Groups of documents that stay in one row, because a ranking loss compares the responses to an instruction.

A group is drawn, packed and trained as one unit. A step is divided over replicas and accumulated batches by whole rows,
so that a group stays together.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .best_fit import PackedRows, Packing

Places = NDArray[np.int64]


class Groups(NamedTuple):
    """Index of the documents that are drawn, packed and trained together, e.g. all responses to an instruction.

    A group is adjacent documents of a task. Group g of task t has index i = ``firsts[t] + g``. It holds the documents
    ``begins[i]`` to ``begins[i] + sizes[i] - 1`` of task t.

    Args:
        firsts: int64 [tasks + 1], index of the first group of each task.
        begins: int64 [groups], index of a group's first document among the documents of its task.
        sizes: int64 [groups], number of documents of each group.
        longest: Columns of the longest group, before groups are split.
        cut: Number of groups that were longer than a row, and were split into several.
        left_out: Number of documents that are in no group, because there was nothing to compare them with.
    """

    firsts: Places
    begins: Places
    sizes: Places
    longest: int = 0
    cut: int = 0
    left_out: int = 0

    def counts(self) -> list[int]:
        """Return the number of groups of each task."""
        return np.diff(self.firsts).tolist()

    def members(self, tasks: Places, groups: Places) -> tuple[Places, Places, Places]:
        """Return (draw, task, index within the task) of each document of the drawn groups, int64 [documents] each.

        Args:
            tasks: int64 [draws], task of each draw.
            groups: int64 [draws], number of the drawn group within its task.

        >>> groups = Groups(np.array([0, 2]), np.array([0, 3]), np.array([3, 2]))
        >>> draws, _, documents = groups.members(np.array([0, 0]), np.array([1, 0]))
        >>> draws.tolist(), documents.tolist()
        ([0, 0, 1, 1, 1], [3, 4, 0, 1, 2])
        """
        places = self.firsts[tasks] + groups
        draws = np.repeat(np.arange(len(places)), self.sizes[places])
        ends = np.cumsum(self.sizes[places])
        within = np.arange(len(draws)) - (ends - self.sizes[places])[draws]
        return draws, tasks[draws], self.begins[places][draws] + within


def pack_together(
    packing: Packing, draws: Places, sizes: NDArray[np.integer], capacity: int, generator: np.random.Generator
) -> PackedRows:
    """Pack groups of documents, each drawn as one, into rows: the documents of a group are adjacent in one row.

    Args:
        packing: Function that packs groups into rows.
        draws: int64 [documents], index of each document's group among the drawn groups, ascending: 0 0 0 1 1 2 ...
        sizes: int [documents], columns of each document.
        capacity: Columns of a row.
        generator: Random generator of the packing.
    """
    starts = np.flatnonzero(np.diff(draws, prepend=-1))
    counts = np.diff(starts, append=len(draws))
    packed = packing(np.add.reduceat(sizes, starts), capacity, generator)
    ends = np.cumsum(counts[packed.order])
    owner = np.repeat(np.arange(len(ends)), counts[packed.order])
    within = np.arange(len(draws)) - (ends - counts[packed.order])[owner]
    return PackedRows(starts[packed.order][owner] + within, np.concatenate([[0], ends])[packed.starts])


def parts_that_fit(sizes: NDArray[np.integer], begins: Places, capacity: int) -> Places:
    """Split groups of documents that are longer than a row; return the index of each resulting group's first document.

    Args:
        sizes: int [documents], columns of each document.
        begins: int64 [groups], index of each group's first document, ascending from 0.
        capacity: Columns of a row.

    >>> parts_that_fit(np.array([2, 2, 3, 3, 3, 1]), np.array([0, 2]), 6).tolist()
    [0, 2, 4]
    """
    ends = np.append(begins[1:], len(sizes))
    over = np.flatnonzero(np.add.reduceat(sizes, begins) > capacity)
    further = []
    for begin, end in zip(begins[over].tolist(), ends[over].tolist(), strict=True):
        used = 0
        for place in range(begin, end):
            if used + sizes[place] > capacity:
                further.append(place)
                used = 0
            used += int(sizes[place])
    return np.sort(np.concatenate([begins, np.array(further, dtype=np.int64)]))
