"""A dump of an optimizer step that was not finite: its batches, the weights before it, and how to compute it again.

A dump is a folder::

    fault.json               step, loss, gradient norm, examples, class of the module, precision
    batches-00000.pt         batches and dropout seeds of each replica, as plain values and tensors
    weights.ckpt             the module before the step, as its strategy writes checkpoints; without optimizer states
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..datamodules.bilevel.bilevel_stream import BilevelBatch
from ..datamodules.bilevel.exemplars import InstructionInputs
from ..datamodules.bilevel.level_rows import InnerBatch
from ..datamodules.messages import some
from ..datamodules.schema import CausalBatch, ScoredBatch, Seq2SeqBatch
from .sharding.checkpoint_damage import require_undamaged
from .sharding.plain_checkpoints import read_plain

BATCHES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (CausalBatch, Seq2SeqBatch, ScoredBatch, BilevelBatch, InnerBatch, InstructionInputs)
}
"""Classes of batches and their parts, by name."""

WEIGHTS = "weights.ckpt"


@dataclass(frozen=True)
class StepFault:
    """Description of an optimizer step whose loss or gradient was not finite.

    Args:
        step: Number of the step, from 1.
        values: Losses and gradient norms of the step, by name.
        examples: (task, example id) of the examples in the step's batches, over all replicas.
        module: Name of the module's class.
        precision: The trainer's precision.
        weights: Checkpoint with the weights before the step; None if there is none.
    """

    step: int
    values: dict[str, float]
    examples: list[tuple[str, str]]
    module: str
    precision: str
    weights: str | None

    def sentence(self) -> str:
        """Return a sentence with what was not finite, and in which examples.

        >>> fault = StepFault(3, {"loss": float("nan")}, [("rte", "7"), ("rte", "9"), ("boolq", "1")], "M", "32", None)
        >>> fault.sentence()
        'step 3 is not finite: loss nan. Its examples: rte (7, 9), boolq (1)'
        """
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in self.values.items())
        ids: dict[str, list[str]] = {}
        for task, example in self.examples:
            ids.setdefault(task, []).append(example)
        tasks = some([f"{task} ({some(examples)})" for task, examples in ids.items()])
        return f"step {self.step} is not finite: {numbers}. Its examples: {tasks}"


def write_fault(folder: Path, fault: StepFault) -> None:
    """Write the description of an optimizer step that was not finite to ``fault.json``; one process is enough."""
    (folder / "fault.json").write_text(json.dumps(asdict(fault), indent=1), encoding="utf-8")


def write_batches(path: Path, batches: Sequence[Any], seeds: Sequence[int]) -> None:
    """Write a replica's batches of an optimizer step, each with the seed of its dropout, to a file of torch."""
    torch.save({"batches": [as_plain(batch) for batch in batches], "seeds": list(seeds)}, path)


def read_fault(folder: Path) -> StepFault:
    """Return the description of an optimizer step that was not finite, from the folder that training wrote of it.

    Raises:
        ValueError: The folder is no dump.
    """
    try:
        content = json.loads((folder / "fault.json").read_text(encoding="utf-8"))
        return StepFault(**{**content, "examples": [(task, example) for task, example in content["examples"]]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{folder} is not the dump of a step that was not finite (not-finite-step-N): {error}"
        ) from error


def read_batches(folder: Path) -> list[tuple[str, int, Any]]:
    """Return the batches of an optimizer step that was not finite, from the folder that training wrote of it.

    Each is (name of its replica's file, dropout seed, batch).

    Raises:
        ValueError: There are none, or a file holds something else.
    """
    paths = sorted(folder.glob("batches-*.pt"))
    if not paths:
        raise ValueError(f"{folder} holds no batches-*.pt: the dump is incomplete")
    read = []
    for path in paths:
        content = read_plain(path)
        require_undamaged(path)
        try:
            batches = zip(content["seeds"], content["batches"], strict=True)
            read += [(path.stem, seed, as_batch(batch)) for seed, batch in batches]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold batches of this version: {error!r}") from error
    return read


def as_plain(value: Any) -> Any:
    """Return a batch (named tuples of tensors) as dictionaries of CPU tensors, which a safe unpickler reads."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if type(value).__name__ in BATCHES:
        return {"kind": type(value).__name__, **{name: as_plain(part) for name, part in value._asdict().items()}}
    return value


def as_batch(value: Any) -> Any:
    """Return the batch whose dictionaries ``as_plain`` has written."""
    if not isinstance(value, dict):
        return value
    fields = {name: as_batch(part) for name, part in value.items()}
    return BATCHES[fields.pop("kind")](**fields)
