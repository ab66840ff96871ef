"""Errors that are printed as a sentence without a traceback, and errors of disks."""

import contextlib
import errno
import os
import select
import signal
import sys
import traceback

from ...datamodules.atomic_files import system_error
from ...datamodules.optional_packages import missing_package

PACKAGE = __name__.partition(".")[0]


def is_ours(error: BaseException) -> bool:
    """Return whether this package raised an error itself, so that its message is written for users."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(f"{PACKAGE}.")


DISK_FAULTS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENAMETOOLONG,
    errno.EMFILE,
    errno.ENFILE,
}
"""Error numbers of the system that would occur again in the next task: no space, no permission, a broken disk."""


WAYS_OUT = {
    errno.ENOSPC: "; free some space and run the command again: what was complete before is kept",
    errno.EDQUOT: "; free some space and run the command again: what was complete before is kept",
    errno.EFBIG: "; the file system or `ulimit -f` limits the size of a file",
    errno.EROFS: "; name a folder that can be written to",
    errno.EACCES: "; name a folder that this user may read and write",
    errno.EPERM: "; name a folder that this user may read and write",
    errno.EMFILE: "; raise `ulimit -n`",
}


def is_disk_fault(error: BaseException) -> bool:
    """Return whether a disk or its permissions caused an error."""
    system = system_error(error)
    return system is not None and system.errno in DISK_FAULTS


def sentence(error: Exception) -> str:
    """Return the message of an error for users.

    For a missing package it says how to install it; for an error of the system it has the file, the reason and advice.
    """
    if hint := missing_package(error):
        return hint
    system = None if isinstance(error, ValueError) else system_error(error)
    if system is None or system.strerror is None or not (isinstance(error, OSError) or is_disk_fault(error)):
        return str(error)
    where = f"{system.filename}: " if system.filename is not None else ""
    return f"{where}{system.strerror}{WAYS_OUT.get(system.errno or 0, '')}"


class TerminationError(SystemExit):
    """Raised by SIGTERM at the current line of the program, so that half-written files are removed."""


def end_on_sigterm() -> None:
    """Let SIGTERM end this process by an exception; the system's default leaves half-written files."""

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends what takes too long
        raise TerminationError(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def reader_has_ended() -> bool:
    """Return whether standard output is a pipe that is not read any more."""
    try:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no poll, or no file
        return False
    return any(events & select.POLLERR for _, events in output.poll(0))


def drop_output() -> None:
    """Discard buffered standard output, which the interpreter would try to write again at its exit."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: closed, or no file
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def is_termination(error: SystemExit) -> bool:
    """Return whether SIGTERM ended the program, by itself or through Lightning, whose exit status would be 0."""
    if isinstance(error, TerminationError):
        return True
    if "lightning" not in sys.modules:
        return False
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    return isinstance(error, SIGTERMException)


def is_rejection(error: Exception) -> bool:
    """Return whether the message of an error is enough for users, so that no traceback is printed.

    It is enough for a ValueError of this package, a missing package, an error of the system (a full disk, a missing
    file, no network), and Lightning's MisconfigurationException.
    """
    if isinstance(error, OSError) or is_disk_fault(error) or missing_package(error):
        return True
    if isinstance(error, ValueError):
        return is_ours(error)
    if "lightning" not in sys.modules:  # its import takes seconds
        return False
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)
