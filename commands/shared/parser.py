"""What a class of crosstask refuses is said in its own words, not as one of an argument parser's attempts.

jsonargparse tries every type that an argument may have, and reports the errors of all of them with all that was given:
thousands of characters around the one sentence that says what is wrong.
"""

import traceback
from contextvars import ContextVar
from typing import Any

from jsonargparse import ArgumentParser


class _Rejected(BaseException):
    """Carries an error past who would go on to the next type: no ``except Exception`` holds it."""

    def __init__(self, rejecting: type, error: ValueError) -> None:
        self.rejecting, self.error = rejecting, error


_building: ContextVar[bool] = ContextVar("building", default=False)


class SentenceParser(ArgumentParser):
    """Builds what was parsed, and raises a constructor's own ValueError, with the name of its class."""

    def instantiate(self, namespace: Any, *args: Any, **kwargs: Any) -> Any:
        if _building.get():
            return super().instantiate(namespace, *args, **kwargs)
        inside = _building.set(True)
        try:
            return super().instantiate(namespace, *args, **{"instantiators": [(_build, object, True)], **kwargs})
        except _Rejected as rejected:
            raise ValueError(f"{rejected.rejecting.__name__}: {rejected.error}") from rejected.error
        finally:
            _building.reset(inside)


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package: then its message is written for who uses it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(__name__.partition(".")[0] + ".")


def _build(class_type: type, *args: Any, **kwargs: Any) -> Any:
    try:
        return class_type(*args, **kwargs)
    except ValueError as error:
        if is_ours(error):
            raise _Rejected(class_type, error) from None
        raise
