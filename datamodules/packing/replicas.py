"""Rank arithmetic: data-parallel replicas, gradient accumulation, and the scale of a loss.

No other file reads ``world_size``, ``global_rank`` or ``accumulate_grad_batches``.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from lightning import Trainer
from torch import distributed as dist

Item = TypeVar("Item")


def gathered(item: Item) -> list[Item]:
    """Return the items of all processes, by rank; every process must call it. Without a process group: ``[item]``."""
    if not (dist.is_available() and dist.is_initialized()):
        return [item]
    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


class Replicas(NamedTuple):
    """This process's replica among the data-parallel replicas of a run.

    A replica is one or more processes that read the same data. Under tensor parallelism several processes form one
    replica, so `size` is not the world size.

    Args:
        size: Number of replicas.
        rank: Number of this process's replica, from 0.
        accumulation: Batches of one replica in an optimizer step (``accumulate_grad_batches``).
        processes: Processes of one replica, which share its matrices.
        divides_twice: Whether the strategy divides the loss by `accumulation`, too, after Lightning did (DeepSpeed).
    """

    size: int = 1
    rank: int = 0
    accumulation: int = 1
    processes: int = 1
    divides_twice: bool = False

    @property
    def loss_scale(self) -> float:
        """Factor for the loss that ``training_step`` returns: sum over the batch's targets / targets of the whole step.

        Gradients are averaged over replicas and divided by the accumulated batches afterwards. The factor undoes both,
        so that the gradient is that of one mean over all targets of the optimizer step.
        """
        return float(self.size * self.accumulation * (self.accumulation if self.divides_twice else 1))

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return every `size`-th item, from index `rank` on.

        >>> Replicas(size=2, rank=1).share("abc")
        ['b']
        """
        return list(items[self.rank :: self.size])

    def equal_share(self, batches: Sequence[list[Item]]) -> list[list[Item]]:
        """Return this replica's batches; empty ones are appended so that all replicas have the same number.

        >>> Replicas(size=2, rank=1).equal_share([[0, 1], [2], [3]])
        [[2], []]
        """
        mine = self.share(batches)
        return mine + [[]] * (-(-len(batches) // self.size) - len(mine))

    def rows_per_batch(self, rows_per_step: int) -> int:
        """Return the rows of one batch of a replica.

        Args:
            rows_per_step: Rows of one optimizer step, over all replicas.

        Raises:
            ValueError: `rows_per_step` is not a multiple of the batches of a step.
        """
        parts = self.size * self.accumulation
        if rows_per_step % parts:
            raise ValueError(
                f"rows.per_step = {rows_per_step} cannot be divided among {self.size} replicas x {self.accumulation} "
                f"accumulated batches: choose a multiple of {parts}"
            )
        return rows_per_step // parts


def replicas(trainer: Trainer | None) -> Replicas:
    """Return this process's replica under a trainer; without a trainer, the only replica without accumulation."""
    if trainer is None:
        return Replicas()
    # Absent for a single device; aware of tensor parallelism for ModelParallelStrategy.
    sampler = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {"num_replicas": 1, "rank": 0}
    return Replicas(
        size=sampler["num_replicas"],
        rank=sampler["rank"],
        accumulation=trainer.accumulate_grad_batches,
        processes=trainer.world_size // sampler["num_replicas"],
        # DeepSpeed divides the loss inside backward, after Lightning's closure already did.
        divides_twice=bool(getattr(trainer.strategy, "handles_gradient_accumulation", False)),
    )


def process_number(trainer: Trainer) -> int:
    """Return this process's global rank, e.g. for the name of a file that it alone writes."""
    return trainer.global_rank


class Process(NamedTuple):
    """Rank of this process in a job that runs without a trainer, e.g. `crosstask samples` under torchrun or srun.

    Args:
        rank: Number of the process, from 0.
        size: Number of processes of the job.
        local: Number of the process on its machine, from 0.
    """

    rank: int = 0
    size: int = 1
    local: int = 0


def process_of_job(environment: Mapping[str, str] = os.environ) -> Process:
    """Return this process's rank among those of torchrun, srun and a SLURM job array; else, the only process.

    The tasks of an array share the work: with two tasks of four processes each, the size is 8. A SLURM batch script
    that does not call srun is one process, whatever number of tasks it requests.

    Raises:
        ValueError: The numbers of the array's tasks have gaps, so that shares would be left out.
    """
    here = Process()
    for rank, size, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ):
        if rank in environment and size in environment:
            here = Process(int(environment[rank]), int(environment[size]), int(environment.get(local, 0)))
            break
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return here
    place, count = _array_task(environment)
    return Process(place * here.size + here.rank, count * here.size, here.local)


def _array_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return the place of a job array's task among its tasks, from 0, and their count."""
    number, count, first, last, step = (
        int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", 0), ("COUNT", 1), ("MIN", 0), ("MAX", -1), ("STEP", 1))
    )
    if last >= 0 and first + (count - 1) * step != last:
        raise ValueError(
            f"the {count} tasks of the job array have numbers from {first} to {last} with gaps, and shares of the work "
            f"would be left out: submit it with --array=0-{count - 1}"
        )
    return (number - first) // step, count


def job_id(environment: Mapping[str, str] = os.environ) -> str:
    """Return an identifier that all processes of this job share, and no other job has; empty if there is none.

    It is the id of the job array, SLURM's job and step, or torchrun's run id (a new one for every job of one machine,
    or `--rdzv_id`). Files that processes write for each other are recognized by it.
    """
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"array {environment['SLURM_ARRAY_JOB_ID']}"
    if "RANK" in environment and "WORLD_SIZE" in environment:
        run = environment.get("TORCHELASTIC_RUN_ID", "none")
        return "" if run == "none" else f"torchrun {run}"
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        return f"step {environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}"
    return ""


def batch_seed(seed: int, batch_idx: int, here: Replicas) -> int:
    """Return the dropout seed of one batch, from the run's seed, the batch's index and the replica's rank.

    Processes of one replica drop the same units, as tensor parallelism needs. Different replicas drop different units.
    A resumed run drops the same units as an uninterrupted one, without saved state.
    """
    digest = hashlib.sha256(repr((seed, "batch", batch_idx, here.rank)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def realign_progress(checkpoint: dict[str, Any], here: Replicas) -> None:
    """Change a checkpoint's batch counters, in place, to those of a run with this number of accumulated batches.

    Lightning counts batches of one replica, so its counters depend on the accumulation and the number of replicas of
    the interrupted run. They are computed again from the number of optimizer steps.

    Args:
        checkpoint: The loaded checkpoint, with Lightning's ``loops`` and ``global_step``.
        here: The replica of the run that resumes.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress")
    if progress is None:
        return
    batches = checkpoint["global_step"] * here.accumulation
    for counters in (progress["current"], progress["total"]):
        # A checkpoint saved at a batch's end has not counted that batch as completed: differences are kept.
        shift = batches - counters["processed"]
        for name in ("ready", "started", "processed", "completed"):
            counters[name] += shift
