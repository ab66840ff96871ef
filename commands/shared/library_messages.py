"""Messages on the terminal: hides useless ones of libraries, and makes control characters visible."""

import logging
import warnings
from typing import Any

from ...datamodules.visible_text import visible


def silence_libraries() -> None:
    """Hide messages of libraries that users can do nothing about."""
    # Lightning 2.6 calls torch 2.13 in a way that torch warns of on every run.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # It warns that a model may have been stepped before it is saved, as checkpoints here should be.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    # It recommends other products of its maker.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_recommendation)
    # accelerate imports DeepSpeed where transformers saves a model, with whatever strategy it was trained.
    logging.getLogger("DeepSpeed").addFilter(_not_of_the_accelerator)


def show_hidden_characters() -> None:
    """Print control characters in logs and warnings as code points, since a terminal would execute them."""
    make_record, form_warning = logging.getLogRecordFactory(), warnings.formatwarning

    def visible_record(*args: Any, **options: Any) -> logging.LogRecord:
        record = make_record(*args, **options)
        record.msg, record.args = visible(record.getMessage()), None
        return record

    def visible_warning(*args: Any, **options: Any) -> str:
        return visible(form_warning(*args, **options))

    logging.setLogRecordFactory(visible_record)
    warnings.formatwarning = visible_warning


def _not_of_the_accelerator(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Setting ds_accelerator", "Setting accelerator"))


def _no_recommendation(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
