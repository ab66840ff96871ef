"""Callback that finds slow and hanging processes: step times by rank, and the ranks that others wait for."""

import json
import logging
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import distributed as dist

from ..datamodules.data_files import read_json
from ..datamodules.packing.replicas import gathered
from .run_folder import run_folder

log = logging.getLogger(__name__)

STAGES = ("waiting for data", "forward", "backward", "optimizer step", "validation")
"""Stages of a training step, in order, and validation."""


class StepTimes(NamedTuple):
    """Seconds per training step of one process, without waiting for other processes.

    Args:
        data: Waiting for batches.
        work: From a batch's start to its loss, before the first synchronization. Sharded models, and instruction
            optimization before an outer step, synchronize earlier; their waits are included.
        host: Host name.
    """

    data: float
    work: float
    host: str


class ProgressReport(NamedTuple):
    """The progress of a process: its batch and stage, since when, and the time of the report.

    Args:
        batch: Index of the batch.
        stage: One of ``STAGES``.
        since: When the process entered the stage, in seconds since 1970.
        written: When the report was written, in seconds since 1970.
        host: Host name.
    """

    batch: int
    stage: str
    since: float
    written: float
    host: str


class Stragglers(Callback):
    """Log step times across processes, warn of slow processes, and report which processes a stalled run waits for.

    Ranks finish backward passes and optimizer steps together, because these synchronize. So only the time before the
    backward pass shows which rank is slow. If no process makes progress, the ranks that the others wait for are
    reported before the process group's timeout ends the run; the timeout's own message does not name them. Every
    process writes its progress into ``progress/`` in the run's folder.

    Args:
        every: Optimizer steps between two measurements.
        factor: A process is slow if its time is more than this multiple of the median over processes.
        stall_after: Seconds without progress of any process until a stall is reported.
    """

    def __init__(self, every: int = 20, factor: float = 1.5, stall_after: float = 300.0) -> None:
        if every < 1 or factor <= 1.0 or stall_after <= 0.0:
            raise ValueError(
                "every must be at least 1, factor above 1 and stall_after positive, got "
                f"{every}, {factor} and {stall_after}"
            )
        self.every, self.factor, self.stall_after = every, factor, stall_after
        self._data, self._work, self._mark, self._read_at = 0.0, 0.0, 0.0, 0
        self._report = ProgressReport(0, STAGES[0], time.time(), 0.0, socket.gethostname())
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark, self._read_at = time.monotonic(), trainer.global_step
        folder = run_folder(trainer, "progress")
        distributed = dist.is_available() and dist.is_initialized()
        rank, size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        self._ended.clear()
        self._thread = threading.Thread(target=self._watch, args=(folder, rank, size), daemon=True)
        self._thread.start()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._data += self._elapsed()
        self._at(batch_idx, "forward")

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        if loss.is_cuda and trainer.global_step - self._read_at >= self.every - 1:
            torch.cuda.synchronize(loss.device)  # once in a measurement: kernels run asynchronously
        self._work += self._elapsed()
        self._at(self._report.batch, "backward")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self._at(self._report.batch, "optimizer step")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._at(self._report.batch, "validation")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = time.monotonic()
        self._at(self._report.batch, STAGES[0])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._at(batch_idx + 1, STAGES[0])
        if trainer.global_step - self._read_at >= self.every:
            steps = trainer.global_step - self._read_at
            times = gathered(StepTimes(self._data / steps, self._work / steps, self._report.host))
            for name, value in time_statistics(times).items():
                pl_module.log(f"stragglers/{name}", value, batch_size=1)
            for sentence in slow_ranks(times, self.factor):
                rank_zero_warn(sentence)
            self._data, self._work, self._read_at = 0.0, 0.0, trainer.global_step
        self._mark = time.monotonic()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def _elapsed(self) -> float:
        now = time.monotonic()
        seconds, self._mark = now - self._mark, now
        return seconds

    def _at(self, batch: int, stage: str) -> None:
        self._report = self._report._replace(batch=batch, stage=stage, since=time.time())

    def _watch(self, folder: Path, rank: int, size: int) -> None:
        """Write this process's progress, and on rank 0 report stalls.

        It runs in a thread, since a stalled process calls no hooks.
        """
        interval = min(self.stall_after / 5, 30.0)
        reported = 0.0
        while not self._ended.wait(interval):
            mine = self._report._replace(written=time.time())
            try:
                (folder / f"{rank:05d}.json").write_text(json.dumps(mine))
            except OSError as error:  # the training itself can continue without this watch
                log.warning("progress of rank %d is not written any more: %s", rank, error)
                return
            if rank == 0 and mine.since != reported and mine.written - mine.since > self.stall_after:
                reported = mine.since
                log.error(missing_ranks(read_progress(folder, size), time.time(), silent_after=3 * interval))


def time_statistics(times: Sequence[StepTimes]) -> dict[str, float]:
    """Return seconds per step over processes: mean and longest wait for data, median and longest work, and their ratio.

    >>> numbers = time_statistics([StepTimes(0.1, 1.0, "a"), StepTimes(0.3, 3.0, "b")])
    >>> [numbers[name] for name in ("data_wait_longest", "work_median", "work_longest", "work_spread")]
    [0.3, 2.0, 3.0, 1.5]
    """
    work = [rank.work for rank in times]
    median = statistics.median(work)
    return {
        "data_wait_mean": statistics.fmean(rank.data for rank in times),
        "data_wait_longest": max(rank.data for rank in times),
        "work_median": median,
        "work_longest": max(work),
        "work_spread": max(work) / median if median else 1.0,
    }


def slow_ranks(times: Sequence[StepTimes], factor: float) -> list[str]:
    """Return a sentence for each process slower than `factor` times the median; none if there are fewer than three.

    >>> slow_ranks([StepTimes(0.0, 1.0, "n1"), StepTimes(0.0, 1.0, "n1"), StepTimes(0.0, 2.0, "n2")], factor=1.5)
    ['rank 2 on n2 takes 2.00 s a step before its backward pass, 2.0 times the median: the others wait for it']
    """
    if len(times) < 3:
        return []
    seconds = [rank.data + rank.work for rank in times]
    median = statistics.median(seconds)
    return [
        f"rank {rank} on {times[rank].host} takes {taken:.2f} s a step before its backward pass, "
        f"{taken / median:.1f} times the median: the others wait for it"
        for rank, taken in enumerate(seconds)
        if median and taken > factor * median
    ]


def read_progress(folder: Path, size: int) -> list[ProgressReport | None]:
    """Return the last report of each of `size` ranks; None for a rank without a report."""
    reports: list[ProgressReport | None] = []
    for rank in range(size):
        try:
            reports.append(ProgressReport(*read_json(folder / f"{rank:05d}.json")))
        except (OSError, ValueError):
            reports.append(None)
    return reports


def missing_ranks(reports: Sequence[ProgressReport | None], now: float, *, silent_after: float) -> str:
    """Return a sentence that names the ranks that the others wait for.

    `now` is in seconds since 1970. A rank whose last report is older than `silent_after` seconds is gone.

    >>> here = ProgressReport(18, "backward", since=100.0, written=400.0, host="n1")
    >>> missing_ranks([here, ProgressReport(17, "waiting for data", 98.0, 400.0, "n2")], 400.0, silent_after=60.0)
    'no progress for 300 s; behind all others: rank 1 on n2 (waiting for data of batch 17 for 302 s)'
    >>> missing_ranks([here, here._replace(written=150.0, host="n2")], 400.0, silent_after=60.0)
    'no progress for 300 s; no report for 250 s: rank 1 on n2, its process or node is gone'
    """
    received = [(rank, report) for rank, report in enumerate(reports) if report is not None]
    idle = min((now - report.since for _, report in received), default=0.0)
    start = f"no progress for {idle:.0f} s; "
    if never := [rank for rank, report in enumerate(reports) if report is None]:
        return start + f"no report ever: ranks {never}"
    if silent := [(rank, report) for rank, report in received if now - report.written > silent_after]:
        longest = max(now - report.written for _, report in silent)
        names = ", ".join(f"rank {rank} on {report.host}" for rank, report in silent)
        return start + f"no report for {longest:.0f} s: {names}, its process or node is gone"
    places = {rank: (report.batch, STAGES.index(report.stage)) for rank, report in received}
    least = min(places.values())
    if least == max(places.values()):
        first = reports[0]
        assert first is not None
        return start + f"all ranks are in {first.stage} of batch {first.batch}: the network may be at fault"
    behind = ", ".join(
        f"rank {rank} on {report.host} ({report.stage} of batch {report.batch} for {now - report.since:.0f} s)"
        for rank, report in received
        if places[rank] == least
    )
    return start + f"behind all others: {behind}"
