"""Import of a user's classes and functions by their import paths."""

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
