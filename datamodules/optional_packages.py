"""Reports of missing optional packages, with the command that installs them.

Loggers (TensorBoard, W&B, MLflow), quantized weights, other attention, SentencePiece files and remote folders each need
a package that most runs do without.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec

PACKAGE = __name__.partition(".")[0]

INSTALLED_AS = {
    "comet_ml": "comet-ml",
    "flash_attn": "flash-attn",
    "google": "protobuf",
    "nltk": "nltk",
    "rouge_score": "rouge-score",
    "sklearn": "scikit-learn",
    "tensorboardX": "tensorboard",
    "transformer_engine": "transformer-engine",
    "yaml": "pyyaml",
}
"""Name to install for packages that are imported by another name."""

MENTIONED = {
    "sentencepiece": "sentencepiece",
    "tiktoken": "tiktoken",
    "protobuf": "protobuf",
    "flash_attn": "flash-attn",
    "flashattention": "flash-attn",
    "bitsandbytes": "bitsandbytes",
    "accelerate": "accelerate",
    "s3fs": "s3fs",
    "gcsfs": "gcsfs",
    "psutil": "psutil",
    "kernels": "kernels",
}
"""Package to install by a word, in lower case, of libraries' errors that give no command."""

COMMAND = re.compile(r"pip install (?:-U |--upgrade )?['\"`]*([A-Za-z][\w.-]*)")
"""Install command in an error message; its group is the package."""


def missing_package(error: BaseException) -> str | None:
    """Return a sentence on the missing package behind an error, with its install command; None for other errors.

    >>> missing_package(ModuleNotFoundError("No module named 'a_logger'", name="a_logger"))
    'the package a_logger is not installed, which these settings need: pip install a_logger'
    """
    for cause in _causes(error):
        if isinstance(cause, ImportError) and (name := _package(cause)):
            return f"the package {name} is not installed, which these settings need: pip install {name}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _package(error: ImportError) -> str | None:
    """Return the name of the package to install; None if an installed package lacks a module."""
    if error.name:
        module = error.name.partition(".")[0]
        return None if module == PACKAGE or find_spec(module) else INSTALLED_AS.get(module, module)
    message = str(error)
    if named := COMMAND.search(message):
        return INSTALLED_AS.get(named[1], named[1])
    return next((package for word, package in MENTIONED.items() if word in message.lower()), None)
