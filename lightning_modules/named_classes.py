"""Import of a user's classes and functions by their import paths."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def imported(path: str, argument: str) -> Any:
    """Return the class or function with an import path.

    >>> imported("collections.Counter", "kind")("aab")["a"]
    2

    Args:
        path: Module and name, joined by dots.
        argument: Name of the argument that holds the path, for error messages.

    Raises:
        ValueError: There is no such module or name.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        wrong = ValueError(
            f"{argument} is {path!r}, which cannot be imported ({error}): give the path of a class or function, such "
            "as my_project.methods.name, in a folder that Python finds (PYTHONPATH)"
        )
        missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise wrong from None  # the user's own module: with its cause, the command would advise to pip install it
        raise wrong from error


def imported_to_call(path: str, argument: str, *given: str, options: Mapping[str, Any]) -> Any:
    """Return the class or function with an import path, if it can be called with these arguments.

    >>> imported_to_call("collections.deque", "kind", "iterable", options={"maxlen": 3}).__name__
    'deque'

    Args:
        path: Module and name, joined by dots.
        argument: Name of the argument that holds the path, for error messages.
        given: Names of the positional arguments of the call; those that end in "=" are passed by keyword.
        options: Further keyword arguments, which the user has set.

    Raises:
        ValueError: There is no such module or name, or it takes other arguments.
    """
    function = imported(path, argument)
    positional = [name for name in given if not name.endswith("=")]
    keywords = {name.removesuffix("="): None for name in given if name.endswith("=")}
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some functions written in C
        return function
    try:
        signature.bind(*positional, **keywords, **options)
    except TypeError as error:
        call = ", ".join([*positional, *(f"{name}=..." for name in (*keywords, *options))])
        raise ValueError(
            f"{argument} {path} cannot be called as {path.rpartition('.')[2]}({call}): {error}; its options are "
            f"{sorted(options)}"
        ) from None
    return function
