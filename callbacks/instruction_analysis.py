"""Analysis of learned instructions: their map and distances beside human-written ones, and curves of the training."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..datamodules.bilevel.exemplars import InstructionInputs
from ..datamodules.instruction_optimization import InstructionOptimizationDataModule
from ..datamodules.rendering.special_tokens import truncating_tokenizer
from ..datamodules.schema import Task
from ..datamodules.whole_files import write_whole
from ..lightning_modules.instruction_optimization import InstructionOptimizationModule
from ..lightning_modules.instructions.instructed_loss import input_embeddings, reader
from ..lightning_modules.instructions.learnable_instructions import DirectEmbedder, masked_mean
from .report.figure_style import write_figure_files
from .report.instruction_distances import category_distances, distance_to_nearest, t_sne
from .report.instruction_figures import instruction_map, training_curves
from .report.learned_instructions import CAPTIONS, FOLDER, NUMBERS
from .run_folder import run_folder

CURVES = {
    "losses": ("train/inner_loss", "train/outer_loss"),
    "gradient-norms": ("train/inner_gradient_norm", "train/outer_gradient_norm", "train/hypergradient_norm"),
    "hypergradient": ("train/hypergradient_cosine", "train/last_exemplar_share"),
}
"""Logged values by the figure that shows them."""

QUANTITIES = {"losses": "loss", "gradient-norms": "norm", "hypergradient": "cosine or share"}


class InstructionAnalysis(Callback):
    """Draw and measure learned instructions when training ends.

    The run's folder ``instructions`` gets (figures as SVG, PDF and PNG):

    - ``map``: the t-SNE of human-written and learned instructions by category (Figure 4 of arXiv 2306.10098), from mean
      last hidden states of the model's encoder, or of its only stack.
    - ``analysis.json``: mean cosine distances within and between categories and from the test definitions to the
      nearest instruction, and the vocabulary's tokens nearest to each learned embedding.
    - ``curves-*``: losses, gradient norms of both levels, the cosine between hypergradients of half batches (the
      module's noise_every) and the share of an extractor's choices on the last exemplar; each if it was logged.

    Args:
        folder: Output folder; by default ``instructions`` in the run's folder.
        categories: Number of categories on the map, those with most tasks.
        tokens: Number of nearest tokens for each embedding of a task.
    """

    def __init__(self, folder: str | None = None, categories: int = 20, tokens: int = 3) -> None:
        self.folder, self.categories, self.tokens = folder, categories, tokens
        self._curves: dict[str, list[tuple[int, float]]] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch.outer is None:
            return
        for names in CURVES.values():
            for name in names:
                if name in trainer.callback_metrics:
                    point = (trainer.global_step, float(trainer.callback_metrics[name]))
                    self._curves.setdefault(name, []).append(point)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = run_folder(trainer, FOLDER, self.folder)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, InstructionOptimizationModule) or not isinstance(
            data, InstructionOptimizationDataModule
        ):
            raise ValueError("InstructionAnalysis reads the instructions of InstructionOptimizationModule and its data")
        if not trainer.is_global_zero:
            return
        self._draw_curves(folder)
        if isinstance(pl_module.language_model, FSDPModule):
            rank_zero_info("no map of instructions: one process cannot read a model that is sharded over several")
            return
        self._analyse(pl_module, data, folder)

    def _draw_curves(self, folder: Path) -> None:
        for name, metrics in CURVES.items():
            curves = {m.removeprefix("train/"): self._curves[m] for m in metrics if m in self._curves}
            if curves:
                key = f"curves-{name}"
                write_figure_files(training_curves(curves, QUANTITIES[name]), folder, key, CAPTIONS[key])

    @torch.no_grad()
    def _analyse(
        self, module: InstructionOptimizationModule, data: InstructionOptimizationDataModule, folder: Path
    ) -> None:
        plan = data.plan
        assert plan is not None
        tasks = [task for task, _ in plan.inner]
        training = module.language_model.training
        module.language_model.eval()
        human, learned = definition_states(module, [task.definition for task in tasks]), learned_states(module, data)
        names = data.benchmark.task_names("test")
        tests = definition_states(module, [data.benchmark.task(name).definition for name in names])
        module.language_model.train(training)
        categories = [task.category for task in tasks]
        numbers = instruction_distances(human, learned, tests, categories)
        if isinstance(module.instruction, DirectEmbedder):
            numbers["nearest tokens"] = nearest_tokens(module, tasks, self.tokens)
        write_whole(folder / NUMBERS, json.dumps(numbers, indent=1))
        self._draw_map(human, learned, categories, folder)
        rank_zero_info(f"map and distances of learned instructions: {folder}")

    def _draw_map(self, human: np.ndarray, learned: np.ndarray, categories: Sequence[str], folder: Path) -> None:
        largest = {category for category, _ in Counter(categories).most_common(self.categories)}
        kept = [place for place, category in enumerate(categories) if category in largest]
        points = t_sne(np.concatenate([human[kept], learned[kept]]))
        figure = instruction_map(points[: len(kept)], points[len(kept) :], [categories[place] for place in kept])
        write_figure_files(figure, folder, "map", CAPTIONS["map"])


def instruction_distances(
    human: np.ndarray, learned: np.ndarray, tests: np.ndarray, categories: Sequence[str]
) -> dict[str, Any]:
    """Cosine distances of human-written and of learned instructions [n, W], and of test definitions [m, W] to them."""
    return {
        name: {
            **category_distances(points, categories),
            "distance of test definitions to the nearest": distance_to_nearest(tests, points),
        }
        for name, points in (("human", human), ("learned", learned))
    }


def definition_states(module: InstructionOptimizationModule, texts: Sequence[str]) -> np.ndarray:
    """Mean last hidden states [n, W] of texts, one text at a time."""
    assert module.tokenizer is not None
    rows = []
    with truncating_tokenizer(module.tokenizer, module.row_length) as backend:
        encodings = backend.encode_batch_fast([text or " " for text in texts])
    for encoding in encodings:
        ids = torch.tensor([encoding.ids], device=module.device)
        states = reader(module.language_model).encode(ids, torch.ones_like(ids))
        rows.append(states.mean(dim=1)[0].double().cpu().numpy())
    return np.stack(rows)


def learned_states(module: InstructionOptimizationModule, data: InstructionOptimizationDataModule) -> np.ndarray:
    """Mean last hidden states [n, W] of the learned instruction of each inner task, at its first training instance."""
    model, plan = module.language_model, data.plan
    assert plan is not None
    assert module.instruction is not None
    rows = []
    for task in range(len(plan.inner)):
        inputs = [None if tensor is None else tensor.to(module.device) for tensor in plan.first_batch(task).inputs]
        instruction = module.instruction(InstructionInputs(*inputs), reader(model))  # type: ignore[arg-type]
        states = stack_states(model, instruction.embeddings.to(model.dtype), instruction.mask)
        rows.append(masked_mean(states, instruction.mask)[0].double().cpu().numpy())
    return np.stack(rows)


def stack_states(model: Any, embeddings: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states [B, I, W] of the model's encoder, or of its only stack, for embeddings [B, I, D]."""
    stack: nn.Module = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    extra = {} if model.config.is_encoder_decoder else {"use_cache": False}
    return stack(inputs_embeds=embeddings, attention_mask=mask, **extra).last_hidden_state


def nearest_tokens(
    module: InstructionOptimizationModule, tasks: Sequence[Task], count: int
) -> dict[str, list[list[str]]]:
    """By task, the tokens whose input embeddings have the largest cosine with each embedding of its instruction."""
    assert isinstance(module.instruction, DirectEmbedder)
    assert module.tokenizer is not None
    table: Any = input_embeddings(module.language_model).weight
    table_VD = torch.nn.functional.normalize(table.float(), dim=-1)
    tokens = module.tokenizer.convert_ids_to_tokens(range(len(module.tokenizer)))  # type: ignore[arg-type]
    nearest: dict[str, list[list[str]]] = {}
    for task, embeddings_ID in zip(tasks, module.instruction.table.to(table_VD.dtype), strict=False):
        best = (torch.nn.functional.normalize(embeddings_ID, dim=-1) @ table_VD.T).topk(count, dim=-1).indices
        nearest[task.name] = [[str(tokens[id]) for id in row] for row in best.tolist()]
    return nearest
