"""Render and tokenize the training tasks of a run that the store lacks, and render its validation.

Training does this itself where it is missing; with --processes it is done ahead. A prepared run starts without reading
a data file: this command reads them, and prepares changed tasks again. An interrupted preparation keeps the
tasks that are complete. A damaged task is named and written again; with --verify, all files are read to find it. All
options of `crosstask fit` are accepted, and those of the data are used.

Example:
    crosstask prepare --config quickstart --processes 2
"""

import time
from collections.abc import Sequence

from .shared.run_settings import Settings, build_data, run_on_settings


def run(words: Sequence[str]) -> None:
    """Prepare by the words of a command line."""
    run_on_settings(prepare_store, words)


def prepare_store(settings: Settings, processes: int = 1, verify: bool = False) -> None:
    """Render and tokenize the training tasks that the store lacks.

    Args:
        settings: Of the run.
        processes: Processes that read, render and tokenize.
        verify: Read all files of the store and compare their checksums; damaged tasks are named and written again.
            Without it, and in training, the sizes of the files are compared.
    """
    from ..datamodules.stored_training import StoredDataModule

    data = build_data(settings)
    if not isinstance(data, StoredDataModule):
        print(f"{type(data).__name__} has nothing to prepare: its instances are rendered and tokenized when drawn")
        return
    data.processes, data.verify, data.compare = processes, verify, True
    began = time.monotonic()
    data.prepare_data()
    seconds, done = time.monotonic() - began, data.prepared
    rate = f" ({done.examples / seconds:,.0f} a second)" if done.written else ""
    print(
        f"{done.written} tasks written, {done.reused} already in the store; "
        f"{done.examples:,} examples in {seconds:.0f} s{rate}"
    )
    if data.instances.validates:
        data.setup("validate")  # the store keeps the evaluated examples, too
    print(f"store: {data.cache}")
