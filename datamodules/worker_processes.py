"""Worker processes that end when the process that started them ends, however it ends."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any


def end_with_parent() -> None:
    """Make this process of a multiprocessing pool exit when its parent ends, also by SIGKILL.

    A thread waits for the system to close the parent's end of a pipe. A keyboard interrupt, which reaches all processes
    of a terminal, ends this process without a traceback.
    """
    parent = parent_process()
    assert parent is not None, "only a process of multiprocessing has a parent to end with"
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def run_command(command: Sequence[str], **options: Any) -> int:
    """Run a command to its end and return its exit status; it ends with this process, however that ends.

    If this process is interrupted or terminated, the command receives SIGTERM and may write its checkpoint first.

    Args:
        command: Program and words.
        options: Of ``subprocess.Popen``, such as its streams.
    """
    with subprocess.Popen(command, preexec_fn=end_when_parent_dies, **options) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def end_when_parent_dies() -> None:
    """Make Linux end this process when the one that started it ends, also by SIGKILL; elsewhere, do nothing."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def is_copy_of_parent() -> bool:
    """Return whether the parent runs the same command, as when Lightning starts the other processes of a machine."""
    if "LOCAL_RANK" not in os.environ:
        return False
    try:
        ours, theirs = (Path(f"/proc/{process}/cmdline").read_bytes() for process in ("self", os.getppid()))
    except OSError:  # no /proc, or the parent has ended
        return False
    return ours.split(b"\0")[2:] == theirs.split(b"\0")[2:]  # without interpreter and script, whose paths may differ


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
