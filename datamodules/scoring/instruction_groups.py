"""Groups of scored pairs with the same instruction, whose responses a ranking loss compares."""

import numpy as np

from ..packing.document_groups import Groups, parts_that_fit
from ..storage.stored_tasks import StoredTasks
from .pair_rows import ScoredRows


def instruction_groups(stored: StoredTasks, kind: ScoredRows) -> Groups:
    """Group stored (instruction, response) pairs by example, for a ranking loss that compares an example's responses.

    Pairs that do not fit into one row are split into several groups, whose responses are not compared with each other.
    A group whose labels are all equal is left out, since there is nothing to rank. Both are counted in the result.

    Args:
        stored: Scored pairs of all tasks, those of an example one after another.
        kind: Layout of the rows, which has their length.
    """
    begins, sizes, counts = [], [], []
    longest = cut = left_out = 0
    for task in stored:
        assert task.groups is not None
        assert task.labels is not None
        columns = np.asarray(kind.sizes(task.lengths, task.n_sources), dtype=np.int64)
        examples = np.flatnonzero(np.diff(task.groups, prepend=-1))
        parts = parts_that_fit(columns, examples, kind.capacity)
        whole = np.add.reduceat(columns, examples)
        longest = max(longest, int(whole.max()))
        cut += int(np.count_nonzero(whole > kind.capacity))
        ends = np.append(parts[1:], len(columns))
        graded = np.maximum.reduceat(task.labels, parts) > np.minimum.reduceat(task.labels, parts)
        left_out += int((ends - parts)[~graded].sum())
        begins.append(parts[graded])
        sizes.append((ends - parts)[graded])
        counts.append(int(graded.sum()))
    firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Groups(firsts, np.concatenate(begins), np.concatenate(sizes), longest, cut, left_out)
