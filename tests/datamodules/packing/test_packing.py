"""Documents into rows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from crosstask.datamodules.packing.best_fit import Packing, best_fit, in_order, one_per_row

SIZES = np.random.default_rng(0).integers(1, 65, size=5_000)


def rows_of(packing: Packing, sizes: NDArray, capacity: int, seed: int = 0) -> list[list[int]]:
    rows = packing(np.asarray(sizes), capacity, np.random.default_rng(seed))
    return [rows.row(r).tolist() for r in range(len(rows))]


@pytest.mark.parametrize("packing", [best_fit, in_order, one_per_row])
def test_every_document_has_one_place_and_no_row_is_overfull(packing: Packing) -> None:
    rows = rows_of(packing, SIZES, 64)
    assert sorted(document for row in rows for document in row) == list(range(len(SIZES)))
    assert max(SIZES[row].sum() for row in rows) <= 64
    assert min(map(len, rows)) > 0


def test_best_fit_finds_the_perfect_packing() -> None:
    rows = rows_of(best_fit, [5, 3, 3, 5, 8, 2, 6], 8)
    assert sorted(sorted(np.array([5, 3, 3, 5, 8, 2, 6])[row]) for row in rows) == [[2, 6], [3, 5], [3, 5], [8]]


def test_best_fit_in_bulk_equals_best_fit_one_by_one() -> None:
    """The number of rows of the textbook algorithm, which places one document after another."""
    sizes, capacity = SIZES[:600], 64
    rooms: list[int] = []
    for size in sorted(sizes.tolist(), reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - size)
    assert len(rows_of(best_fit, sizes, capacity)) == len(rooms)


def test_real_length_mixes_fill_their_rows() -> None:
    lengths = np.random.default_rng(1).lognormal(np.log(220) - 0.5, 1.0, 65_536).astype(int).clip(1, 2048)
    rows = rows_of(best_fit, lengths, 2048)
    assert lengths.sum() / (len(rows) * 2048) > 0.999  # ecosystem's best whole-set packers reach 99.9 to 99.99%


def test_in_order_opens_a_new_row_for_what_does_not_fit() -> None:
    assert rows_of(in_order, [5, 3, 3, 2, 5, 8, 1], 8) == [[0, 1], [2, 3], [4], [5], [6]]


def test_best_fit_leaves_nothing_sorted() -> None:
    """Rows must not come longest documents first: training would see lengths in order."""
    rows = rows_of(best_fit, SIZES, 64)
    heads = np.array([SIZES[row[0]] for row in rows])
    correlation = np.corrcoef(heads, np.arange(len(heads)))[0, 1]
    assert abs(correlation) < 0.1
    assert 0.3 < np.mean([SIZES[row[0]] >= SIZES[row[-1]] for row in rows if len(row) > 1]) < 0.8


def test_packing_is_a_function_of_its_generator() -> None:
    assert rows_of(best_fit, SIZES, 64, seed=3) == rows_of(best_fit, SIZES, 64, seed=3)
    assert rows_of(best_fit, SIZES, 64, seed=3) != rows_of(best_fit, SIZES, 64, seed=4)


@pytest.mark.parametrize("packing", [best_fit, in_order, one_per_row])
def test_no_documents_make_no_rows(packing: Packing) -> None:
    assert rows_of(packing, np.empty(0, dtype=int), 8) == []


@pytest.mark.parametrize("sizes", [[0, 3], [9, 3]])
def test_sizes_that_no_row_can_hold_are_rejected(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="1 to 8 columns"):
        rows_of(best_fit, np.array(sizes), 8)
