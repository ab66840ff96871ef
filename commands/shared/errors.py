"""Errors that are printed as a sentence without a traceback, and errors of disks."""

import errno
import sys

from ...datamodules.atomic_files import system_error
from ...datamodules.messages import is_ours
from ...datamodules.optional_packages import missing_package

PACKAGE = __name__.partition(".")[0]


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
