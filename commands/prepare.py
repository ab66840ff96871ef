"""``crosstask prepare``: render and tokenize ahead of training what the store lacks."""

import time
from collections.abc import Sequence

from ..datamodules.base import StoredDataModule
from .shared.run_data import data_parser, parsed_data


def prepare(words: Sequence[str]) -> None:
    """Render and tokenize the training tasks that the store lacks, over several processes.

    Args:
        words: The words after ``crosstask prepare``.
    """
    parser = data_parser("Render and tokenize ahead of training what the store lacks; run it again after a kill.")
    parser.add_argument("--processes", type=int, default=1, help="Processes that read, render and tokenize.")
    settings, data = parsed_data(parser, words)
    if not isinstance(data, StoredDataModule):
        print(f"{type(data).__name__} has nothing to prepare: its instances are rendered and tokenized as they are drawn")
        return
    data.processes = settings.processes
    began = time.monotonic()
    data.prepare_data()
    seconds, done = time.monotonic() - began, data.prepared
    rate = f" ({done.examples / seconds:,.0f} a second)" if done.written else ""
    print(f"{done.written} tasks written, {done.found} found; {done.examples:,} examples in {seconds:.0f} s{rate}")
    print(f"store: {data.cache}")
