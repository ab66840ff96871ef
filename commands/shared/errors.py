"""Which errors are shown to users as a sentence, without a traceback."""

import sys
import traceback

PACKAGE = __name__.partition(".")[0]


def is_ours(error: BaseException) -> bool:
    """Whether this package raised an error: its message is then written for users."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(f"{PACKAGE}.")


def is_rejection(error: Exception) -> bool:
    """Whether an error rejects settings of the user: a ValueError of this package, or Lightning's misconfiguration."""
    if isinstance(error, ValueError):
        return is_ours(error)
    if "lightning" not in sys.modules:  # its import takes seconds
        return False
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)
