"""Number of torch's threads for small models on a CPU.

The operations of a small model are so short that threads spend their time waiting for each other, above all if another
process needs a core: beside one busy process, two threads trained the quickstart 24 times slower than on a quiet
machine.
"""

import os

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

SMALL = 10_000_000
"""Number of parameters below which a model runs on one thread; measured by perf/threads.py."""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class CpuThreads(Callback):
    """Callback that runs a small model on one thread, unless the user has set the number of threads."""

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        if parameters < SMALL and threads_are_default():
            torch.set_num_threads(1)
            rank_zero_info(
                f"One thread for {parameters / 1e6:.1f}M parameters, so that no time is lost in waiting. "
                "OMP_NUM_THREADS sets another number."
            )

    # The model is built in configure_model, which runs before these hooks and after setup.
    on_fit_start = on_validation_start = on_test_start = on_predict_start = _choose


def threads_are_default() -> bool:
    """Return whether torch has its default number of threads, this is more than one, and no variable sets it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    default = (cores, cores // 2)  # torch's builds count processors, or cores of two processors each
    return torch.get_num_threads() in default and torch.get_num_threads() > 1 and not {*VARIABLES} & {*os.environ}
