"""Callback that writes a process's resident memory and open files during a long training."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import lightning as L


class ResourceWatch(L.Callback):
    """Callback that adds lines of (step, resident bytes, open files) to a file.

    Args:
        file: Path to write to.
        every: Number of steps between two lines.
    """

    def __init__(self, file: str, every: int) -> None:
        self.file, self.every = file, every

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            line = (trainer.global_step, pages * resource.getpagesize(), len(os.listdir("/proc/self/fd")))
            with open(self.file, "a") as file:
                file.write(json.dumps(line) + "\n")
