"""Names of a package that are imported on first use (PEP 562), so that importing one of its files imports no other.

Torch, Lightning and transformers take seconds to import, which ``crosstask report`` or ``--help`` should not wait for.
"""

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, files: Mapping[str, str]) -> Callable[[str], object]:
    """Return a function to assign to a package's ``__getattr__``; it imports a name when it is first used.

    Args:
        package: The package's ``__name__``.
        files: For each name, the module of the package that defines it.
    """

    def load(name: str) -> object:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{files[name]}"), name)

    return load
