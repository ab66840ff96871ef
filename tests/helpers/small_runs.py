"""Modules with their datamodules, built in Python as in a script, and trainers for a few steps."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from argument_groups import build, with_changes
from bilevel_runs import make_runs
from recipes import save_model, store_of

from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.base import BenchmarkDataModule
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.lightning_modules.adapters import LoRA
from crosstask.lightning_modules.instruction_tuning import InstructionTuningModule
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.planned_training import PlannedTraining
from crosstask.lightning_modules.prefixes import Prefix
from crosstask.lightning_modules.scorer import ScorerModule

ENCODER = {"model_type": "roberta", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
ENCODER |= {"num_attention_heads": 2, "max_position_embeddings": 130}
FAST = Optimization(learning_rate=0.01, warmup=0.5)
QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
QUIET |= {"accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "enable_checkpointing": False}
TUNING: dict[str, Any] = {"rows": {"length": 128, "per_step": 8}, "evaluation": {"max_new_tokens": 8}}
SCORER: dict[str, Any] = {"rows": {"length": 256, "pair_length": 96, "per_step": 2}}
Pair = tuple[PlannedTraining, BenchmarkDataModule]


class SmallRuns:
    """Factory of pairs of a module and a datamodule.

    Args:
        toybench: Folder of the embedded benchmark.
        folder: Folder into which documents and weights are written.
        model: Fields of a small decoder's configuration.
    """

    def __init__(self, toybench: Path, folder: Path, model: dict[str, Any]) -> None:
        self.toybench, self.folder, self.model = toybench, folder, model
        self.tokenizer = str(toybench / "tokenizer")

    def __call__(
        self, name: str, data: dict[str, Any] | None = None, optimizer: Optimization = FAST, **arguments: Any
    ) -> Pair:
        """Build the pair of a name: ``tuning``, ``scorer``, ``optimization``, ``lora`` or ``prefix``.

        Args:
            name: Name of the pair.
            data: Arguments of the datamodule that override the defaults; of a group, only the fields to change.
            optimizer: Optimizer of the module.
            arguments: Further arguments of the module.
        """
        L.seed_everything(0, verbose=False)
        data = data or {}
        if name == "optimization":
            options: dict[str, Any] = {"data": data, "total_steps": -1, **arguments}
            return make_runs(self.toybench, self.model, **options, optimizer=optimizer)
        if name == "scorer":
            options = {"config": ENCODER, "row_length": 256, **arguments}
            module: PlannedTraining = ScorerModule(self.tokenizer, optimizer=optimizer, **options)
            return module, self._data(ScorerDataModule, SCORER, data)
        if name == "tuning":
            options = {"config": self.model, "row_length": 128, **arguments}
            module = InstructionTuningModule(self.tokenizer, optimizer=optimizer, **options)
            return module, self._data(InstructionTuningDataModule, TUNING, data)
        weights = str(save_model("opt", self.folder, len(load_tokenizer(self.tokenizer))))
        adapters: dict[str, Any] = {"lora": LoRA(r=2, target_modules=["q_proj", "v_proj"])}
        rows: dict[str, Any] = {}
        if name == "prefix":
            adapters = {"prefix": Prefix(3), "network": Network(attention="sdpa")}
            rows = {"packing": "one_per_row"}
        module = InstructionTuningModule(
            self.tokenizer, weights, optimizer=optimizer, **{"row_length": 128, **adapters, **arguments}
        )
        return module, self._data(InstructionTuningDataModule, with_changes(TUNING, {"rows": rows}), data)

    def _data(self, kind: Any, defaults: dict[str, Any], changes: dict[str, Any]) -> Any:
        shared = {
            "benchmark": NaturalInstructions(str(self.toybench)),
            "tokenizer": self.tokenizer,
            "instances": {"validation": 1, "test": 3},
            "cache": str(store_of(self.toybench)),
        }
        return build(kind, shared, defaults, changes)


def small_trainer(steps: int, **options: Any) -> L.Trainer:
    """Return a trainer on the CPU without output and validation."""
    return L.Trainer(**{"max_steps": steps, **QUIET, **options})


def saved_run(pair: Pair, path: Path, steps: int = 2, **options: Any) -> Path:
    """Train a pair for a few steps, save a checkpoint, and return its path."""
    module, data = pair
    trainer = small_trainer(steps, **options)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(path)
    return path


def weights_of(module: PlannedTraining) -> dict[str, torch.Tensor]:
    """Return copies of a module's parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
