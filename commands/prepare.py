"""Render and tokenize the training tasks of a run into the store, and render its validation prompts.

Training does the same for tasks that the store lacks; this command does it ahead, in several processes. It reads all
data files, and prepares changed tasks again. A prepared run starts without reading a data file. An interrupted
preparation keeps the tasks that are complete. Damaged tasks are reported and written again; --verify compares
checksums for this. All options of `crosstask fit` are accepted, and those of the data are used.

Example:
    crosstask prepare --config quickstart --processes 2
"""

import time
from collections.abc import Sequence

from ..datamodules.messages import counted
from .shared.run_settings import Settings, build_data, run_on_settings


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_on_settings(prepare_store, words)


def prepare_store(settings: Settings, processes: int = 1, verify: bool = False) -> None:
    """Render and tokenize the training tasks that the store, the folder of tokenized tasks, lacks.

    Args:
        settings: Settings of the run.
        processes: Number of processes that read, render and tokenize.
        verify: Read all files of the run's tasks in the store and compare their checksums; damaged tasks are written
            again. By default, and in training, only the sizes of files are compared.
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
        f"{counted(done.written, 'task')} written, {done.reused} already in the store; "
        f"{counted(done.examples, 'example')} in {seconds:.0f} s{rate}"
    )
    if data.instances.validates:
        data.setup("validate")  # the store keeps the evaluated examples, too
    print(f"store: {data.cache}")
