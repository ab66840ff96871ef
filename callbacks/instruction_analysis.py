"""What has been learned: instructions of inner tasks beside those that people wrote, and how training came there."""

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
from ..datamodules.schema import Task
from ..lightning_modules.instruction_optimization import InstructionOptimizationModule
from ..lightning_modules.instructions.instructed_loss import input_embeddings, reader
from ..lightning_modules.instructions.learnable_instructions import DirectEmbedder, masked_mean
from .instruction_geometry import coverage, spread, t_sne
from .report.scatter import curves_svg, scatter_svg
from .run_folder import run_folder

CURVES = {
    "losses": ("train/inner_loss", "train/outer_loss"),
    "gradient norms": ("train/inner_gradient_norm", "train/outer_gradient_norm", "train/hypergradient_norm"),
    "hypergradient": ("train/hypergradient_cosine", "train/last_exemplar_share"),
}


class InstructionAnalysis(Callback):
    """Draw and measure learned instructions when training ends.

    In the run's folder ``instructions``: ``map.svg``, the t-SNE of instructions by category, people's and learned
    (Figure 4 of arXiv 2306.10098: mean-pooled last states of the model's encoder, or of its only stack);
    ``analysis.json``, how far apart they are within and between categories and how near the test's definitions come to
    one of them, with the vocabulary's tokens nearest to a learned instruction; and ``curves-*.svg``, the losses,
    gradient norms of both levels, the cosine of half batches' hypergradients (the module's noise_every) and the share
    of an extractor's choices that fall on the last exemplar, whichever were logged.

    Args:
        folder: Where to write; by default ``instructions`` in the run's folder.
        categories: Categories on the map, those with most tasks.
        tokens: Nearest tokens listed for each embedding of a task.
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
        folder = run_folder(trainer, "instructions", self.folder)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, InstructionOptimizationModule) or not isinstance(
            data, InstructionOptimizationDataModule
        ):
            raise ValueError("InstructionAnalysis reads the instructions of InstructionOptimizationModule and its data")
        if not trainer.is_global_zero:
            return
        for title, names in CURVES.items():
            found = {name.removeprefix("train/"): self._curves[name] for name in names if name in self._curves}
            if found:
                (folder / f"curves-{title.replace(' ', '-')}.svg").write_text(curves_svg(found, title))
        if isinstance(pl_module.language_model, FSDPModule):
            rank_zero_info("a sharded model is not read by one process alone: no map of its instructions")
            return
        self._analyse(pl_module, data, folder)

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
        groups = [task.category for task in tasks]
        numbers: dict[str, Any] = {
            name: {**spread(points, groups), "distance of test definitions to the nearest": coverage(points, tests)}
            for name, points in (("human", human), ("learned", learned))
        }
        if isinstance(module.instruction, DirectEmbedder):
            numbers["nearest tokens"] = nearest_tokens(module, tasks, self.tokens)
        (folder / "analysis.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
        shown = {category for category, _ in Counter(groups).most_common(self.categories)}
        kept = [place for place, category in enumerate(groups) if category in shown]
        both = t_sne(np.concatenate([human[kept], learned[kept]]))
        labels = [groups[place] for place in kept]
        (folder / "map.svg").write_text(
            scatter_svg({"human": both[: len(kept)], "learned": both[len(kept) :]}, labels), encoding="utf-8"
        )
        rank_zero_info(f"the map and numbers of learned instructions are in {folder}")


def definition_states(module: InstructionOptimizationModule, texts: Sequence[str]) -> np.ndarray:
    """Mean last states [n, W] of texts, one at a time."""
    assert module.tokenizer is not None
    rows = []
    for text in texts:
        ids = module.tokenizer(text or " ", return_tensors="pt", truncation=True, max_length=module.row_length)
        ids = ids["input_ids"].to(module.device)
        states = reader(module.language_model).encode(ids, torch.ones_like(ids))
        rows.append(states.mean(dim=1)[0].double().cpu().numpy())
    return np.stack(rows)


def learned_states(module: InstructionOptimizationModule, data: InstructionOptimizationDataModule) -> np.ndarray:
    """Mean last states [n, W] of each inner task's learned instruction, at the task's first training instance."""
    model, plan = module.language_model, data.plan
    assert plan is not None
    assert module.instruction is not None
    rows = []
    for task in range(len(plan.inner)):
        there = [None if tensor is None else tensor.to(module.device) for tensor in plan.first_inputs(task)]
        made = module.instruction(InstructionInputs(*there), reader(model))  # type: ignore[arg-type]
        states = stack_states(model, made.embeddings.to(model.dtype), made.mask)
        rows.append(masked_mean(states, made.mask)[0].double().cpu().numpy())
    return np.stack(rows)


def stack_states(model: Any, embeddings: Tensor, mask: Tensor) -> Tensor:
    """Last states [B, I, W] of the model's encoder, or of its only stack, over embeddings [B, I, D]."""
    stack: nn.Module = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    extra = {} if model.config.is_encoder_decoder else {"use_cache": False}
    return stack(inputs_embeds=embeddings, attention_mask=mask, **extra).last_hidden_state


def nearest_tokens(
    module: InstructionOptimizationModule, tasks: Sequence[Task], count: int
) -> dict[str, list[list[str]]]:
    """For each embedding of each task, the tokens whose input embeddings have the largest cosine with it."""
    assert isinstance(module.instruction, DirectEmbedder)
    assert module.tokenizer is not None
    table: Any = input_embeddings(module.language_model).weight
    table_VD = torch.nn.functional.normalize(table.float(), dim=-1)
    tokens, found = module.tokenizer.convert_ids_to_tokens(range(len(module.tokenizer))), {}  # type: ignore[arg-type]
    for task, embeddings_ID in zip(tasks, module.instruction.table.to(table_VD.dtype), strict=False):
        best = (torch.nn.functional.normalize(embeddings_ID, dim=-1) @ table_VD.T).topk(count, dim=-1).indices
        found[task.name] = [[str(tokens[id]) for id in row] for row in best.tolist()]
    return found
