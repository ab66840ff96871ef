"""Write the model of a checkpoint as a Hugging Face folder, and upload it to the hub with a model card.

The folder is loaded by ``AutoModelForCausalLM.from_pretrained``. Checkpoints of every layout are read: a file, a folder
of shards, a folder of DeepSpeed. Adapters are merged into the weights; a trained prefix is written alone, as peft
writes it. Learned instructions are written beside the model, into the folder learned_instructions.

With --push, the folder gets a model card (README.md) from the files of its run: data, licences, settings, scores.
Read it before you publish: --dry_run writes it, lists the files, and uploads nothing. The hub's token is that of
`hf auth login`.

Example:
    crosstask export runs/quickstart/checkpoints/last.ckpt runs/quickstart/huggingface --dtype bfloat16
    crosstask export runs/quickstart/checkpoints/last.ckpt runs/quickstart/published --push me/quickstart --dry_run
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..datamodules.atomic_files import require_new, whole_folder
from ..datamodules.messages import expanded
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(export_checkpoint, words)


def export_checkpoint(
    paths: Sequence[str],
    tokenizer: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    push: str | None = None,
    dry_run: bool = False,
    private: bool = True,
    licence: str | None = None,
    run: str | None = None,
    adapters: Literal["merged", "alone"] = "merged",
) -> None:
    """Write the model of a checkpoint as a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    Only a few weights are in memory at a time: a file is read through a memory map, a folder of shards weight by
    weight, and the partitions of DeepSpeed are merged one after another. Adapters are merged into the pretrained
    weights, which are read again from the training's source. A trained prefix is written alone, as peft writes it.

    Args:
        paths: Two paths: the checkpoint (a file, a folder of shards or a DeepSpeed folder), and the folder to write
            with safetensors, configuration and tokenizer, which must be new or empty.
        tokenizer: Hub name or folder of the tokenizer; by default that of the training.
        dtype: Type of the weights; by default that of the checkpoint.
        push: Repository of the hub, owner/name, to which the folder is uploaded with a model card; null uploads
            nothing.
        dry_run: With `push`: write the card, list the files, and upload nothing.
        private: Whether a new repository is private.
        licence: Identifier of the weights' licence in the card, e.g. apache-2.0; by default the card names none.
        run: Folder of the run that the card describes; by default the one above the checkpoint.
        adapters: ``merged`` adds low-rank adapters to the weights, ``alone`` writes them as a folder of peft.

    Raises:
        ValueError: The checkpoint is incomplete, or crosstask did not write it.
    """
    from ..lightning_modules.checkpoint_export import write_checkpoint_folder

    if push is not None:
        require_repository(push)
    elif dry_run or licence is not None or run is not None:
        raise ValueError("dry_run, licence and run belong to a model card: give --push owner/name, too")

    if isinstance(paths, str) or len(paths) != 2:
        raise ValueError(f"export takes two paths, a checkpoint and the folder to write, got {paths}")
    checkpoint, folder = map(expanded, paths)
    require_new(folder)
    with whole_folder(folder) as partial:
        write_checkpoint_folder(checkpoint, partial, tokenizer=tokenizer, dtype=dtype, adapters=adapters)
        if push is not None:
            write_card(checkpoint, partial, push, licence, None if run is None else expanded(run))
    print(f"exported to {folder}")
    if push is not None:
        publish(folder, push, private=private, dry_run=dry_run)


def require_repository(name: str) -> None:
    """Reject a text that is no name of a hub repository.

    Raises:
        ValueError: It is not owner/name, or the hub does not allow the name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"--push takes the name of a repository, owner/name, got {name!r}: {error}") from error
    if "/" not in name:
        raise ValueError(f"--push takes owner/name, got {name!r}")


def write_card(checkpoint: Path, folder: Path, name: str, licence: str | None, run: Path | None) -> None:
    """Write the model card, README.md, into an exported folder.

    Args:
        checkpoint: The exported checkpoint.
        folder: The exported folder.
        name: Repository, owner/name.
        licence: Identifier of the weights' licence; None for none.
        run: Folder of the run that the card describes; None for the one above the checkpoint.
    """
    from ..callbacks.report.model_card import model_card, read_run_files, run_of_checkpoint
    from ..datamodules.atomic_files import write_whole
    from ..lightning_modules.sharding.checkpoints import KEY, checkpoint_extras

    extras = checkpoint_extras(checkpoint)
    files = read_run_files(run or run_of_checkpoint(checkpoint))
    chat = (folder / "chat_template.jinja").exists()
    card = model_card(name, extras[KEY], files, steps=int(extras["global_step"]), licence=licence, chat=chat)
    write_whole(folder / "README.md", card)


def publish(folder: Path, name: str, *, private: bool, dry_run: bool) -> None:
    """Print the files of a folder, and upload them to the repository `name` unless it is a dry run."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:>14,} {path.relative_to(folder)}")
    if dry_run:
        print(f"dry run: nothing was uploaded to {name}; the card is {folder / 'README.md'}")
        return
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(name, private=private, exist_ok=True)
    print(hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload the model").commit_url)
