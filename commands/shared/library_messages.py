"""Messages of libraries that say nothing to a user of crosstask."""

import logging
import warnings


def silence_libraries() -> None:
    """Hide messages that users can do nothing about."""
    # Lightning 2.6 calls torch 2.13 in a way that torch warns of on every run.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # It warns that a model may have been stepped before it is saved, which is what a checkpoint should hold here.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    # accelerate imports DeepSpeed where transformers saves a model, with whatever strategy it was trained.
    logging.getLogger("DeepSpeed").addFilter(_not_of_the_accelerator)


def _not_of_the_accelerator(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Setting ds_accelerator", "Setting accelerator"))
