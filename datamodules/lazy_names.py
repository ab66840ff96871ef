"""Names that a package offers, imported on first use (PEP 562): importing one file of a room imports no other.

Torch, Lightning and transformers take seconds to import, which ``crosstask report`` or ``--help`` should not wait for.
"""

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, files: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package.

    Args:
        package: The package's ``__name__``.
        files: For each name, the module of the package that defines it.
    """

    def load(name: str) -> object:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{files[name]}"), name)

    return load
