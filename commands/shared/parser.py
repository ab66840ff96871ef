"""The argument parser of all commands: short errors, help that is not wrapped, and hints for misspelt class names.

jsonargparse tries every type that an argument may have, and reports the errors of all of them with all given values:
thousands of characters around the one sentence about the error.
"""

import ast
from argparse import RawDescriptionHelpFormatter
from contextvars import ContextVar
from importlib import import_module
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader, set_loader

from ...datamodules.messages import unknown_class_hint
from ...datamodules.optional_packages import missing_package
from .errors import PACKAGE, is_ours
from .option_errors import option_error
from .quick_imports import without_collections

ROOMS = ("datamodules", "datamodules.benchmarks", "lightning_modules", "callbacks")


_LOAD = get_loader("yaml")


def load_settings(text: str) -> Any:
    """Parse a value of the command line as YAML, or as Python writes values; reject several lines of plain text.

    An option that is a class or a path may name a YAML file with the class. jsonargparse reads any file of that name.
    To YAML, a table of data is one long text, which would be taken for the path.

    jsonargparse reads the value of an option of a class inside a class, writes it with ``str``, and reads it again, so
    that null comes as ``None``, and a mapping with Python's quotes.

    Raises:
        YAMLError: The text is not YAML, or is several lines of plain text.

    >>> load_settings("null"), load_settings(str(None)), load_settings("{alpha: null}")
    (None, None, {'alpha': None})
    >>> load_settings(str({"alpha": None, "separator": "\\n"}))
    {'alpha': None, 'separator': '\\n'}
    """
    written = text.strip()
    if written == "None" or written.startswith(("{", "[")):
        try:
            value = ast.literal_eval(written)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass  # YAML, or no value at all
        else:
            if str(value) == written:
                return value
    value = _LOAD(text)
    if isinstance(value, str) and "\n" in text.strip():
        raise yaml.YAMLError(f"{len(text.splitlines())} lines of plain text")
    return value


set_loader("yaml", load_settings, exceptions=(yaml.YAMLError,))


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Help formatter with types and defaults of options, which keeps the lines of descriptions and examples."""


class _Rejected(BaseException):
    """Carries an error of a constructor past jsonargparse, whose ``except Exception`` would try the next type."""

    def __init__(self, rejecting: type, error: ValueError) -> None:
        self.rejecting, self.error = rejecting, error


_building: ContextVar[bool] = ContextVar("building", default=False)


class SentenceParser(ArgumentParser):
    """Argument parser that reports the error of a class's constructor as one sentence, after the name of the class.

    jsonargparse would report the errors of all types that the argument may have.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

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

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        names = {name for room in ROOMS for name in offered_names(room) if name[0].isupper()}
        super().error(option_error(message + unknown_class_hint(message, names)), ex)


def _build(class_type: type, *args: Any, **kwargs: Any) -> Any:
    try:
        return class_type(*args, **kwargs)
    except ValueError as error:
        if is_ours(error):
            raise _Rejected(class_type, error) from None
        raise
    except ImportError as error:
        if hint := missing_package(error):
            raise _Rejected(class_type, ValueError(hint)) from None
        raise


def offered_names(room: str) -> list[str]:
    """Return the public names of a package, e.g. ``datamodules.benchmarks``."""
    return list(import_module(f"{PACKAGE}.{room}").__all__)


def import_classes(*rooms: str) -> None:
    """Import all public names of packages: jsonargparse finds a class by its short name only if it is imported."""
    with without_collections():
        for room in rooms:
            for name in offered_names(room):
                getattr(import_module(f"{PACKAGE}.{room}"), name)
