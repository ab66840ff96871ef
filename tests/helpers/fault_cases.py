"""What a case of a fault needs, and how it is counted."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fault_runs import Run
from fault_table import Recorder
from warm_program import WarmProgram


class Undisturbed(NamedTuple):
    """A finished run.

    Args:
        run: Its command.
        folder: Where its results are.
        result: Its result.
        changes: How many changes of files below its folder it made.
    """

    run: Run
    folder: Path
    result: Any
    changes: int


@dataclass(frozen=True)
class Faults:
    """What a case of a fault needs.

    Args:
        program: Starts commands.
        undisturbed: Gives the undisturbed run of a name.
        folder: Where the case writes.
        seed: Number of the case.
        record: Counts cases for the table.
    """

    program: WarmProgram
    undisturbed: Callable[[str], Undisturbed]
    folder: Path
    seed: int
    record: Recorder

    def dice(self, name: str) -> random.Random:
        """The random numbers of this case of a fault."""
        return random.Random(f"{name} {self.seed}")

    def copy(self, name: str) -> tuple[Undisturbed, Path]:
        """An undisturbed run, and a copy of its folder."""
        whole = self.undisturbed(name)
        return whole, Path(shutil.copytree(whole.folder, self.folder / "run"))

    @contextmanager
    def counted(self, kind: str, number: int = 1) -> Iterator[None]:
        """Counts a number of faults as tried, and as survived unless an error is raised."""
        self.record(kind, tried=number)
        yield
        self.record(kind, survived=number)
