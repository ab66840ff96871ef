"""Classes and functions of a user's project, by their import paths."""

from importlib import import_module
from typing import Any


def imported(path: str, argument: str) -> Any:
    """The class or function of an import path.

    >>> imported("collections.Counter", "kind")("aab")["a"]
    2

    Args:
        path: Module and name, with dots.
        argument: The argument that holds the path, for errors.

    Raises:
        ValueError: There is no such module or name.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{argument} is {path!r}, which cannot be imported ({error}): give the path of a class or function, such "
            "as my_project.methods.name, in a folder that Python finds (PYTHONPATH)"
        ) from error
