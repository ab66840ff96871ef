"""Which process others wait for: the spread of step times and data waits over ranks, and who is missing in a stall."""

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

from .run_folder import run_folder

log = logging.getLogger(__name__)

STAGES = ("waiting for data", "forward", "backward", "optimizer step", "validation")
"""Where a process can be, in the order of a step."""


class Times(NamedTuple):
    """Seconds that a process took by itself since the last reading.

    Args:
        data: Waiting for batches.
        work: From a batch's start to its loss, before the first wait for others (with some under sharding, and where
            instruction optimization moves phi first).
        host: The machine.
    """

    data: float
    work: float
    host: str


class Report(NamedTuple):
    """Where a process is: the batch, the stage, since when and when it said so, in seconds since the epoch."""

    batch: int
    stage: str
    since: float
    written: float
    host: str


class Stragglers(Callback):
    """Log how unevenly processes work, warn of a slow one by its rank, and say who is missing when nothing moves.

    Backward and optimizer steps wait for the slowest process, so that all take equally long: only what comes before
    them tells who is slow. A stall is reported before the process group's own timeout ends the run, which knows the
    collective but not the culprit. Each process keeps a line about itself in ``progress/`` of the run's folder.

    Args:
        every: Optimizer steps between two readings.
        factor: A process is slow from so many times the median on.
        stall_after: Seconds without any progress until a stall is reported.
    """

    def __init__(self, every: int = 20, factor: float = 1.5, stall_after: float = 300.0) -> None:
        if every < 1 or factor <= 1.0 or stall_after <= 0.0:
            raise ValueError(
                "every must be at least 1, factor above 1 and stall_after positive, got "
                f"{every}, {factor} and {stall_after}"
            )
        self.every, self.factor, self.stall_after = every, factor, stall_after
        self._data, self._work, self._mark, self._read_at = 0.0, 0.0, 0.0, 0
        self._report = Report(0, STAGES[0], time.time(), 0.0, socket.gethostname())
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark, self._read_at = time.monotonic(), trainer.global_step
        folder = run_folder(trainer, "progress")
        rank, size = (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)
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
            torch.cuda.synchronize(loss.device)  # once in a reading: a kernel's time is not the host's
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
            times = gather(Times(self._data / steps, self._work / steps, self._report.host))
            for name, value in spread(times).items():
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
        """Say where this process is, and on rank 0 who is missing; a thread, since a stalled process runs nothing."""
        interval = min(self.stall_after / 5, 30.0)
        told = 0.0
        while not self._ended.wait(interval):
            mine = self._report._replace(written=time.time())
            (folder / f"{rank:05d}.json").write_text(json.dumps(mine))
            if rank == 0 and mine.since != told and mine.written - mine.since > self.stall_after:
                told = mine.since
                log.error(missing_ranks(read_reports(folder, size), time.time(), silent_after=3 * interval))


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def gather(times: Times) -> list[Times]:
    """Everyone's times, by rank; every process must call it."""
    if not _several():
        return [times]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, tuple(times))
    return [Times(*each) for each in everyone]


def spread(times: Sequence[Times]) -> dict[str, float]:
    """Seconds a step: the longest wait for data, the median and longest work, and how much longer the longest is.

    >>> found = spread([Times(0.1, 1.0, "a"), Times(0.3, 3.0, "b")])
    >>> found["data_wait_longest"], found["work_median"], found["work_longest"], found["work_spread"]
    (0.3, 2.0, 3.0, 1.5)
    """
    work = [each.work for each in times]
    median = statistics.median(work)
    return {
        "data_wait_mean": statistics.fmean(each.data for each in times),
        "data_wait_longest": max(each.data for each in times),
        "work_median": median,
        "work_longest": max(work),
        "work_spread": max(work) / median if median else 1.0,
    }


def slow_ranks(times: Sequence[Times], factor: float) -> list[str]:
    """A sentence for each process that takes `factor` times the median, of three processes or more.

    >>> slow_ranks([Times(0.0, 1.0, "n1"), Times(0.0, 1.0, "n1"), Times(0.0, 2.0, "n2")], factor=1.5)
    ['rank 2 on n2 takes 2.00 s a step before its backward pass, 2.0 times the median: the others wait for it']
    """
    if len(times) < 3:
        return []
    median = statistics.median(each.data + each.work for each in times)
    return [
        f"rank {rank} on {each.host} takes {each.data + each.work:.2f} s a step before its backward pass, "
        f"{(each.data + each.work) / median:.1f} times the median: the others wait for it"
        for rank, each in enumerate(times)
        if median and each.data + each.work > factor * median
    ]


def read_reports(folder: Path, size: int) -> list[Report | None]:
    """The last report of each rank, None where there is none."""
    found: list[Report | None] = []
    for rank in range(size):
        try:
            found.append(Report(*json.loads((folder / f"{rank:05d}.json").read_text())))
        except (OSError, ValueError):
            found.append(None)
    return found


def missing_ranks(reports: Sequence[Report | None], now: float, *, silent_after: float) -> str:
    """A sentence on who keeps the others waiting.

    >>> here = Report(18, "backward", since=100.0, written=400.0, host="n1")
    >>> missing_ranks([here, Report(17, "waiting for data", 98.0, 400.0, "n2")], 400.0, silent_after=60.0)
    'no progress for 300 s; behind all others: rank 1 on n2 (waiting for data of batch 17 for 302 s)'
    >>> missing_ranks([here, here._replace(written=150.0, host="n2")], 400.0, silent_after=60.0)
    'no progress for 300 s; not heard of for 250 s: rank 1 on n2, its process or node is gone'
    """
    known = [(rank, report) for rank, report in enumerate(reports) if report is not None]
    waiting = max((now - report.since for _, report in known), default=0.0)
    start = f"no progress for {min((now - report.since for _, report in known), default=waiting):.0f} s; "
    silent = [(rank, report) for rank, report in known if now - report.written > silent_after]
    never = [rank for rank, report in enumerate(reports) if report is None]
    if never:
        return start + f"never heard of: ranks {never}"
    if silent:
        longest = max(now - report.written for _, report in silent)
        names = ", ".join(f"rank {rank} on {report.host}" for rank, report in silent)
        return start + f"not heard of for {longest:.0f} s: {names}, its process or node is gone"
    place = {rank: (report.batch, STAGES.index(report.stage)) for rank, report in known}
    least = min(place.values())
    if least == max(place.values()):
        return start + f"all ranks are in {known[0][1].stage} of batch {known[0][1].batch}: the network may be at fault"
    behind = ", ".join(
        f"rank {rank} on {report.host} ({report.stage} of batch {report.batch} for {now - report.since:.0f} s)"
        for rank, report in known
        if place[rank] == least
    )
    return start + f"behind all others: {behind}"
