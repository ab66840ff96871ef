"""Finding the model to answer with: a Hugging Face folder, a hub name, a run's folder or a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ...datamodules.messages import expanded
from ..checkpoint_export import write_checkpoint_folder
from ..sharding.last_checkpoint import most_steps

CONFIGURATIONS = ("config.json", "adapter_config.json")
"""A folder with one of these files is loaded as it is: a model, or a prefix."""


@contextmanager
def model_folder(source: str) -> Iterator[str]:
    """Yield a folder or hub name that transformers can load, for whatever a user has named as the model.

    A checkpoint is exported into a temporary folder, which is removed at the end of the block.

    Args:
        source: Hub name, folder of a model or a prefix, folder of a run, or a checkpoint.

    Raises:
        ValueError: The path exists and holds no model, or it is a path and does not exist.
    """
    path = expanded(source)
    if not path.exists():
        if source.startswith(("/", "./", "../", "~")) or path.suffix == ".ckpt":
            raise ValueError(f"no model at {path}: expected a Hugging Face folder, a run's folder or a checkpoint")
        yield source
        return
    checkpoint = path if path.is_file() or path.suffix == ".ckpt" else folder_of_run(path)
    if checkpoint.is_dir() and checkpoint.suffix != ".ckpt":
        yield str(checkpoint)
        return
    with TemporaryDirectory(prefix="crosstask-model-") as folder:
        write_checkpoint_folder(checkpoint, Path(folder))
        yield folder


def folder_of_run(path: Path) -> Path:
    """Return the path of the newest model in a run's folder: an export of transformers, or a checkpoint.

    It is the folder itself if it holds a model, else the newest export below it. Without an export, or if a checkpoint
    is newer than it, it is the checkpoint with the most steps.

    Raises:
        ValueError: There is none.
    """
    if any((path / name).is_file() for name in CONFIGURATIONS):
        return path
    exported = [each for name in CONFIGURATIONS for each in path.glob(f"**/huggingface/{name}")]
    export = max(exported, key=_written, default=None)
    checkpoint = most_steps(sorted(path.glob("**/*.ckpt")))
    if export is not None and (checkpoint is None or _written(checkpoint) <= _written(export)):
        return export.parent
    if checkpoint is None:
        raise ValueError(
            f"{path} holds no model: neither {' nor '.join(CONFIGURATIONS)}, nor an export (huggingface/), nor a "
            "checkpoint (*.ckpt)"
        )
    return checkpoint


def _written(path: Path) -> float:
    """Return when a file or folder was last written, in seconds."""
    return path.stat().st_mtime
