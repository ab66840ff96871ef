"""Speed and fill of packing plans for ten million documents, against TRL's.

    python perf/packing.py                    10 million lognormal lengths, rows of 2,048; TRL on a part of them
    python perf/packing.py --published 0      without TRL

Ours plans windows of 65,536 draws, as training does, and moves no token. TRL's ``pack_dataset`` works on a dataset of
token ids and copies it: ``bfd`` is best-fit decreasing within each thousand examples, ``wrapped`` concatenates and cuts
documents at row ends. All pack the same lengths; TRL, which is slower, packs the first part of them. Seconds are of
processor time, which excludes other programs.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from common import print_result
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from crosstask.datamodules.mixture.draws import WINDOW
from crosstask.datamodules.packing.best_fit import Packing, best_fit, in_order

ROW = 2048


class Packed(NamedTuple):
    """Result of packing: documents, processor seconds, share of columns filled, and split documents."""

    documents: int
    seconds: float
    filled: float
    cut: int


def planned(packing: Packing, lengths: NDArray[np.integer]) -> Packed:
    began, rows = time.process_time(), 0
    for window, first in enumerate(range(0, len(lengths), WINDOW)):
        rows += len(packing(lengths[first : first + WINDOW], ROW, np.random.default_rng([0, window])))
    return Packed(len(lengths), time.process_time() - began, lengths.sum() / (rows * ROW), 0)


def published(strategy: str, lengths: NDArray[np.integer]) -> Packed:
    """Measure TRL's ``pack_dataset``; building its dataset of token ids is not measured."""
    from datasets import Dataset, disable_progress_bars
    from trl.data_utils import pack_dataset

    disable_progress_bars()
    tokens = np.zeros(ROW, dtype=np.int32)
    data = Dataset.from_dict({"input_ids": [tokens[:length] for length in lengths]}).with_format("arrow")
    began = time.process_time()
    packed = pack_dataset(data, ROW, strategy, map_kwargs={"load_from_cache_file": False, "keep_in_memory": True})
    seconds = time.process_time() - began
    rows = len(packed)
    cut = sum(_cuts(lengths[i : i + 1000]) for i in range(0, len(lengths), 1000)) if strategy == "wrapped" else 0
    return Packed(len(lengths), seconds, lengths.sum() / (rows * ROW), cut)


def _cuts(lengths: NDArray[np.integer]) -> int:
    """Return the number of documents that are split over rows, if all documents are concatenated."""
    ends = np.cumsum(lengths)
    return int(np.count_nonzero((ends - lengths) // ROW != (ends - 1) // ROW))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--published", type=int, default=200_000, help="documents that TRL packs; 0 for none")
    parser.add_argument("--mean", type=int, default=220, help="tokens of a document")
    settings = parser.parse_args()
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(settings.mean) - 0.5, 1.0, settings.documents), 1, ROW).astype(int)
    some = lengths[: settings.published]
    runs: dict[str, Callable[[], Packed]] = {
        "crosstask, best fit": lambda: planned(best_fit, lengths),
        "crosstask, in order (released OPT-IML)": lambda: planned(in_order, lengths),
    }
    if settings.published:
        runs["crosstask, best fit, TRL's part"] = lambda: planned(best_fit, some)
        runs["TRL bfd"] = lambda: published("bfd", some)
        runs["TRL wrapped (concatenation)"] = lambda: published("wrapped", some)
    table = Table("packing", title=f"rows of {ROW:,}, mean {lengths.mean():.0f}", title_justify="left")
    for column in ("documents", "seconds", "seconds a million", "filled", "documents cut"):
        table.add_column(column, justify="right")
    found: dict[str, Packed] = {}
    for name, run in runs.items():
        found[name] = packed = run()
        rate = packed.seconds / packed.documents * 1e6
        row: list[Any] = [f"{packed.documents:,}", f"{packed.seconds:.2f}", f"{rate:.2f}", f"{packed.filled:.3%}"]
        table.add_row(name, *row, f"{packed.cut:,}")
    Console().print(table)
    ours = found["crosstask, best fit"]
    peer = found.get("TRL bfd", found["crosstask, in order (released OPT-IML)"])
    print_result(
        "packing",
        ours=ours.documents / ours.seconds,
        peer=peer.documents / peer.seconds,
        unit="documents/s",
        setting=f"rows of {ROW}, lognormal mean {settings.mean}; filled {ours.filled:.4f} against {peer.filled:.4f}; "
        f"peer {'TRL bfd on ' + str(len(some)) if settings.published else 'in order'}",
    )


if __name__ == "__main__":
    main()
