"""Paths of a run's logs and checkpoints: inside its ``default_root_dir``, unless its settings have other paths."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger


def write_below_root(trainer: Any) -> None:
    """Set the paths of loggers and checkpoints inside ``default_root_dir``, unless the settings have other paths.

    `trainer` are the parsed settings of the trainer, which are changed in place.
    """
    root = trainer["default_root_dir"]
    if root is None:
        return
    trainer["logger"] = loggers_below(str(root), trainer["logger"])
    for callback in trainer["callbacks"] or ():
        if callback["class_path"].endswith("ModelCheckpoint") and callback["init_args"].get("dirpath") is None:
            callback["init_args"]["dirpath"] = str(Path(root) / "checkpoints")


DEFAULT_PLACES = {"WandbLogger": ("save_dir", ".", ""), "MLFlowLogger": ("save_dir", "./mlruns", "mlruns")}
"""For each logger: its argument for a folder, Lightning's default, and the subfolder of a run's root."""


def loggers_below(root: str, loggers: Any) -> Any:
    """Return the settings of a run's loggers, with a CSVLogger before the others, and folders inside the root.

    Args:
        root: The run's ``default_root_dir``.
        loggers: Parsed setting: None or true for the default, false for no logger, a logger or several.
    """
    if loggers is False:
        return False
    listed = [] if loggers in (None, True) else loggers if isinstance(loggers, list) else [loggers]
    names = [each["class_path"].rpartition(".")[2] for each in listed]
    for name, each in zip(names, listed, strict=True):
        argument, default, below = DEFAULT_PLACES.get(name, ("", "", ""))
        if argument and each["init_args"].get(argument) == default and not each["init_args"].get("tracking_uri"):
            each["init_args"][argument] = str(Path(root) / below)
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 prefers a database, which files are not
    if "CSVLogger" in names:
        return loggers
    csv = _csv_below(root)
    return [csv, *listed] if listed else csv


def without_places_below_root(trainer: Any) -> Any:
    """Return a trainer's settings without the paths inside its ``default_root_dir``, for a saved configuration.

    A run with this configuration and another ``default_root_dir`` then writes into the other folder.

    Args:
        trainer: Parsed settings of the trainer, which ``write_below_root`` has filled; they are copied.
    """
    trainer = trainer.clone()
    root = trainer["default_root_dir"]
    if root is None:
        return trainer
    for callback in trainer["callbacks"] or ():
        if callback["class_path"].endswith("ModelCheckpoint") and callback["init_args"].get("dirpath") == str(
            Path(root) / "checkpoints"
        ):
            callback["init_args"]["dirpath"] = None
    listed = trainer["logger"] if isinstance(trainer["logger"], list) else [trainer["logger"]]
    for each in (each for each in listed if isinstance(each, Namespace)):
        argument, default, below = DEFAULT_PLACES.get(each["class_path"].rpartition(".")[2], ("", "", ""))
        if argument and each["init_args"].get(argument) == str(Path(root) / below):
            each["init_args"][argument] = default
    kept = [each for each in listed if each != _csv_below(str(root))]
    if len(kept) < len(listed):
        trainer["logger"] = kept or None
    return trainer


def _csv_below(root: str) -> Namespace:
    return Namespace(class_path=class_path(CSVLogger), init_args=Namespace({"save_dir": root, "name": None}))


def class_path(cls: type) -> str:
    """Return the import path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"
