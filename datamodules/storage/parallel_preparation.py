"""Preparation of many tasks over several processes, with a progress bar.

A task's folder appears complete or not at all, so that an interrupted preparation resumes with the missing tasks.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..worker_processes import end_with_parent
from .preparation import Preparation
from .store import remove_abandoned


class Job(NamedTuple):
    """A training task to render and tokenize, as a work item of ``prepare_tasks``.

    Args:
        name: Name of the task.
        validated: Whether instances of it are held out for validation.
        tested: Whether instances of it are held out for test.
        verified: Whether to read the files of an existing folder and compare their checksums, or their sizes alone.
    """

    name: str
    validated: bool
    tested: bool
    verified: bool = False


class PreparationCounts(NamedTuple):
    """Numbers of prepared tasks and examples.

    Args:
        written: Tasks that were missing or damaged, and were written.
        reused: Tasks that the store had already.
        examples: Documents written.
    """

    written: int
    reused: int
    examples: int


def prepare_tasks(preparation: Preparation, jobs: Sequence[Job], *, processes: int = 1) -> PreparationCounts:
    """Render and tokenize the training tasks that are not on disk yet, and return numbers of tasks and documents.

    Args:
        preparation: Settings of rendering and tokenization; with several processes it must be picklable.
        jobs: The tasks.
        processes: Number of processes. With 1, this process prepares all tasks, and the tokenizer uses all cores. With
            more, each task is read, rendered and tokenized on one core.

    Raises:
        ValueError: `processes` is below 1, a task cannot be read or rendered, or a process died. Tasks that were
            complete before stay in the store.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    remove_abandoned(preparation.folder)
    columns = (
        SpinnerColumn(),
        TextColumn("Preparing tasks"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[examples]:,} examples"),
        TimeElapsedColumn(),
    )
    written = reused = examples = 0
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("", total=len(jobs), examples=0)
        for count in _counts(preparation, jobs, processes):
            written, reused = (written, reused + 1) if count is None else (written + 1, reused)
            examples += count or 0
            progress.update(bar, advance=1, examples=examples)
    return PreparationCounts(written, reused, examples)


def _counts(preparation: Preparation, jobs: Sequence[Job], processes: int) -> Iterator[int | None]:
    """Yield the number of documents written for each task when it is done; None for a task that the store had."""
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield preparation.write(**job._asdict())
        return
    # Forked from a server that has imported this module and nothing else: no thread or lock of this process is copied.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(min(processes, len(jobs)), context, _start, (preparation, dict(os.environ))) as pool:
        waiting: set[Future[int | None]] = {pool.submit(_write, job) for job in jobs}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                yield from [future.result() for future in done]
        except BrokenProcessPool as error:
            raise ValueError(
                "a process that prepared tasks died, perhaps because memory ran out; complete tasks are kept: "
                "run it again, with fewer processes"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_preparation: Preparation  # of a worker process


def _start(preparation: Preparation, environment: dict[str, str]) -> None:
    """Set up a worker process with this environment: its server may have started with other values of variables."""
    global _preparation
    end_with_parent()
    os.environ.update(environment)
    # One process a core: a tokenizer that spreads over all of them would only get in the others' way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _preparation = preparation


def _write(job: Job) -> int | None:
    return _preparation.write(**job._asdict())
