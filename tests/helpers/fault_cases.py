"""Cases of a fault: the run to disturb, its random numbers, and the count of cases that survived."""

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
    """Finished run that was not disturbed.

    Args:
        run: The command of the run.
        folder: Folder of its results.
        result: Its results, as values that compare.
        changes: Number of changes of files in its folder.
    """

    run: Run
    folder: Path
    result: Any
    changes: int


@dataclass(frozen=True)
class Faults:
    """Case of a fault, with what a test needs to cause it.

    Args:
        program: Server that starts commands.
        undisturbed: Function from the name of a run to its undisturbed run.
        folder: Folder that the case writes into.
        seed: Number of the case.
        record: Function that counts cases for the table.
    """

    program: WarmProgram
    undisturbed: Callable[[str], Undisturbed]
    folder: Path
    seed: int
    record: Recorder

    def dice(self, name: str) -> random.Random:
        """Return the random generator of this case, by the fault's name."""
        return random.Random(f"{name} {self.seed}")

    def copy(self, name: str) -> tuple[Undisturbed, Path]:
        """Return an undisturbed run, and a copy of its folder."""
        whole = self.undisturbed(name)
        return whole, Path(shutil.copytree(whole.folder, self.folder / "run"))

    @contextmanager
    def counted(self, kind: str, number: int = 1) -> Iterator[None]:
        """Count faults as tried, and as survived unless an error is raised inside."""
        self.record(kind, tried=number)
        yield
        self.record(kind, survived=number)
