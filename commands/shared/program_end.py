"""Ends of the program that are no errors: Ctrl-C, SIGTERM, and a reader of its output that has ended."""

import contextlib
import os
import select
import signal
import sys


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


def end_by_default() -> None:
    """Let a signal end this process at once, since there is nothing left to remove or to report."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell has its background processes ignore Ctrl-C
            signal.signal(number, signal.SIG_DFL)


def is_interruption(error: SystemExit) -> bool:
    """Return whether Ctrl-C ended the program through Lightning, which then exits with status 1."""
    return isinstance(error.__context__, KeyboardInterrupt)


def is_termination(error: SystemExit) -> bool:
    """Return whether SIGTERM ended the program, by itself or through Lightning, whose exit status would be 0."""
    if isinstance(error, TerminationError):
        return True
    if "lightning" not in sys.modules:
        return False
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    return isinstance(error, SIGTERMException)
