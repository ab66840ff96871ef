"""Callback that compares learned instructions with human-written ones: a map, distances and training curves."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from ..datamodules.atomic_files import write_whole
from ..datamodules.instruction_optimization import InstructionOptimizationDataModule
from ..datamodules.messages import expanded
from ..lightning_modules.instruction_optimization import InstructionOptimizationModule
from ..lightning_modules.instructions.fixed_instructions import NoInstruction
from .instruction_states import InstructionStates, instruction_states
from .report.figure_style import write_figure_files
from .report.instruction_distances import t_sne
from .report.instruction_figures import MARKS, instruction_map, training_curves
from .report.learned_instructions import CAPTIONS, FOLDER, NUMBERS

CURVES = {
    "losses": ("train/inner_loss", "train/outer_loss"),
    "gradient-norms": ("train/inner_gradient_norm", "train/outer_gradient_norm", "train/hypergradient_norm"),
    "hypergradient": ("train/hypergradient_cosine", "train/last_exemplar_share"),
}
"""Names of logged values, by the figure that shows them."""

QUANTITIES = {"losses": "loss", "gradient-norms": "norm", "hypergradient": "cosine or share"}
Points = Sequence[tuple[int, float]]


class InstructionAnalysis(Callback):
    """Draw and measure learned instructions at the end of training, and at intervals during it.

    The folder ``instructions`` gets (figures as SVG, PDF and PNG):

    - ``map``: t-SNE of human-written, initial and learned instructions, marked by category (Figure 4 of
      arXiv 2306.10098). A point is the mean last hidden state of the model's encoder, or of a decoder-only model.
    - ``analysis.json``: for human-written, initial and learned instructions, the mean cosine distances within and
      between categories, and from each test definition to the nearest instruction. Also how far the parameters moved
      from their start, the share of exemplars not chosen at first, and the tokens nearest to each learned embedding.
    - ``curves-*``: losses, gradient norms of both levels, the cosine between the hypergradients of the two halves of an
      outer batch (the module's outer.noise_every), and the share of instances for which an extractor chooses the last
      exemplar; each only if it was logged. With `every`, also the distances.

    Checkpoints hold the initial parameters and all curves, so that a resumed run continues them. `crosstask
    instructions` draws them again from a checkpoint. With instruction.kind none, only the curves are drawn.

    Args:
        folder: Output folder; None for ``instructions`` in the trainer's ``default_root_dir``, beside the checkpoints.
        categories: Number of categories on the map; those with the most tasks are shown.
        tokens: Number of nearest tokens to list for each learned embedding.
        every: Outer steps (updates of the instructions) between analyses during training, each into a folder of its
            own; 0 for the end only.
    """

    def __init__(self, folder: str | None = None, categories: int = 20, tokens: int = 3, every: int = 0) -> None:
        if not 1 <= categories <= MARKS:
            raise ValueError(f"categories must be 1 to {MARKS}, which have different marks, got {categories}")
        self.folder, self.categories, self.tokens, self.every = folder, categories, tokens, every
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.initial: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"curves": self.curves, "initial": self.initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curves = {
            name: [(int(step), float(value)) for step, value in p] for name, p in state_dict["curves"].items()
        }
        self.initial = state_dict["initial"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the initial parameters of a new run; those of a resumed run are in its checkpoint."""
        module, _ = _instructed(trainer, pl_module)
        if trainer.global_step == 0 and module.instruction is not None:
            values = module.instruction.state_dict()
            self.initial = {name: value.detach().cpu().clone() for name, value in values.items()}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch.outer is None:
            return
        for names in CURVES.values():
            for name in names:
                if name in trainer.callback_metrics:
                    self._note(trainer.global_step, name, float(trainer.callback_metrics[name]))
        module, data = _instructed(trainer, pl_module)
        if self.every and module.outer_step and module.outer_step % self.every == 0:
            folder = self._output(trainer)
            if trainer.is_global_zero and not isinstance(module.language_model, FSDPModule):
                self._analyse(module, data, folder / f"step-{trainer.global_step}", trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = self._output(trainer)
        module, data = _instructed(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        if isinstance(module.language_model, FSDPModule):
            draw_curves(self.curves, folder)
            rank_zero_info("no map of instructions: one process cannot read a model that is sharded over several")
            return
        if isinstance(module.instruction, NoInstruction):
            draw_curves(self.curves, folder)
            rank_zero_info("no map of instructions: with instruction.kind none there are none")
            return
        self._analyse(module, data, folder, trainer.global_step)
        draw_curves(self.curves, folder)
        rank_zero_info(f"map and distances of learned instructions: {folder}")

    def _output(self, trainer: L.Trainer) -> Path:
        return expanded(self.folder) if self.folder else Path(trainer.default_root_dir) / FOLDER

    def _analyse(
        self, module: InstructionOptimizationModule, data: InstructionOptimizationDataModule, folder: Path, step: int
    ) -> None:
        states = instruction_states(module, data, self.initial, self.tokens)
        write_analysis(states, folder, step=step, categories=self.categories)
        for kind in states.points:
            for measure in ("within", "between"):
                if measure in states.numbers[kind]:
                    self._note(step, f"{kind}, {measure} categories", states.numbers[kind][measure])

    def _note(self, step: int, name: str, value: float) -> None:
        points = self.curves.setdefault(name, [])
        if not points or points[-1][0] < step:
            points.append((step, value))


def _instructed(
    trainer: L.Trainer, module: L.LightningModule
) -> tuple[InstructionOptimizationModule, InstructionOptimizationDataModule]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(module, InstructionOptimizationModule) or not isinstance(data, InstructionOptimizationDataModule):
        raise ValueError("InstructionAnalysis reads the instructions of InstructionOptimizationModule and its data")
    return module, data


def draw_curves(curves: Mapping[str, Points], folder: Path) -> None:
    """Draw the curves of a training of instructions into a folder: losses, gradient norms, cosines and distances.

    Args:
        curves: (step, value) pairs of each logged value, by its name; a figure is left out if nothing of it was logged.
        folder: Output folder.
    """
    for name, metrics in CURVES.items():
        drawn = {metric.removeprefix("train/"): curves[metric] for metric in metrics if metric in curves}
        if drawn:
            key = f"curves-{name}"
            write_figure_files(training_curves(drawn, QUANTITIES[name]), folder, key, CAPTIONS[key])
    distances = {name: points for name, points in curves.items() if name.endswith(" categories") and len(points) > 1}
    if distances:
        figure = training_curves(distances, "mean cosine distance")
        write_figure_files(figure, folder, "curves-distances", CAPTIONS["curves-distances"])


def write_analysis(states: InstructionStates, folder: Path, *, step: int, categories: int) -> None:
    """Write a t-SNE map of human-written and learned instructions, and their distances in ``analysis.json``.

    Args:
        states: Hidden states of the instructions, from ``instruction_states``.
        folder: Output folder, which is created.
        step: Number of inner steps, written into ``analysis.json``.
        categories: Number of categories on the map.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / NUMBERS, json.dumps({"step": step, **states.numbers}, indent=1))
    largest = {category for category, _ in Counter(states.categories).most_common(categories)}
    kept = [place for place, category in enumerate(states.categories) if category in largest]
    places = t_sne(np.concatenate([points[kept] for points in states.points.values()]))
    by_kind = dict(zip(states.points, np.split(places, len(states.points)), strict=True))
    figure = instruction_map(by_kind, [states.categories[place] for place in kept])
    write_figure_files(figure, folder, "map", CAPTIONS["map"])
