"""Running processes: waits for a condition, and finds processes by environment or session."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait until a condition is true, and return whether it became true within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def processes_with(variable: str) -> list[int]:
    """Return the ids of processes with a variable in their environment, given as NAME=VALUE."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def processes_in(session: int) -> list[int]:
    """Return the ids of the processes of a session, whose id is that of the process that began it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(path.parent.name))
    return found
