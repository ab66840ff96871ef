"""Speed of a whole `crosstask fit`: a recipe's trainer, model and optimizer on the embedded benchmark.

    python perf/gpu/fit_speed.py --recipe papers/opt_iml_1.3b --model models/opt_1.3b_random
    python perf/gpu/fit_speed.py --toy

Unlike step_speed.py, this includes the datamodule, the thread that prefetches, Lightning's loop, clipping beside a
fused optimizer, callbacks, a sanity check and a validation that generate, and steps after it. Printed are the real
tokens per second and the utilization of the last steps, after the validation, the share of these steps in which the
host waits for a batch, and how many graphs were compiled before and after that validation: blocks stay compiled if
none is added. The last line is JSON. `--toy` takes a tiny OPT, rows of 128 tokens and a CPU, without compilation.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, LightningModule, Trainer

from crosstask.commands.shared.config_names import composed_settings, configs_folder
from crosstask.commands.shared.trainer import run_trainer
from crosstask.datamodules.toybench.writer import write_toybench

TINY = {
    "model_type": "opt",
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}


class Waits(Callback):
    """Time that the host waits for batches, the time of the same steps, and the number of compiled graphs."""

    def __init__(self) -> None:
        self.restart()
        self.graphs: list[int] = []
        """At the end of every validation, and at the end of the training."""

    def restart(self) -> None:
        self.waited, self.began = 0.0, time.monotonic()
        self._asked = self.began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.restart()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.waited += time.monotonic() - self._asked

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._asked = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.graphs.append(compiled_graphs())
        self.restart()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.share = self.waited / (time.monotonic() - self.began)
        self.graphs.append(compiled_graphs())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="papers/opt_iml_1.3b")
    parser.add_argument("--model", default="models/opt_1.3b_random")
    parser.add_argument("--batches", type=int, default=4, help="accumulated batches of a step")
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    configs_folder()
    with tempfile.TemporaryDirectory() as scratch:
        settings = changed(given, Path(scratch))
        path = Path(scratch) / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings))
        trainer = run_trainer(["fit", "--config", str(path)]).trainer
    [waits] = [each for each in trainer.callbacks if type(each).__name__ == "Waits"]
    measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
    network = settings["model"]["init_args"]["network"]
    result = {
        "benchmark": "training",
        "program": "crosstask fit",
        "setting": {
            "size": Path(given.recipe).name,
            "rows": given.rows,
            "batches": given.batches,
            "compile": network["compile"],
            "recompute": json.dumps(network["gradient_checkpointing"]),
        },
        "tokens_per_second": round(measured["throughput/tokens_per_second"], 1),
        "utilization": measured.get("throughput/model_flops_utilization"),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if torch.cuda.is_available() else None,
        "waiting_for_data": round(waits.share, 4),
        "graphs_until_validation": waits.graphs[-2],
        "graphs_after_it": waits.graphs[-1] - waits.graphs[-2],
    }
    print(json.dumps(result))


def compiled_graphs() -> int:
    """Return the number of graphs that this process has compiled."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def changed(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return the recipe's settings, with the embedded benchmark as data and random weights."""
    write_toybench(scratch / "toybench")
    recipe: dict[str, Any] = composed_settings(given.recipe)
    shape = TINY if given.toy else composed_settings(given.model)["model"]["init_args"]["config"]
    recipe["model"]["init_args"] |= {"pretrained": None, "config": shape}
    recipe["model"]["init_args"]["optimizer"]["warmup"] = 1
    recipe["trainer"] |= {
        "max_steps": given.steps,
        "accumulate_grad_batches": given.batches,
        "val_check_interval": (given.steps // 2 + 1) * given.batches,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 2,
        "num_sanity_val_steps": 1,
        "default_root_dir": str(scratch / "run"),
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "callbacks": [
            {"class_path": "Throughput", "init_args": {"every": given.steps}},
            {"class_path": "fit_speed.Waits"},
        ],
    }
    if given.toy:
        recipe["trainer"] |= {"accelerator": "cpu"}
        recipe["model"]["init_args"]["network"]["compile"] = False
    recipe["data"] = {
        "class_path": "InstructionTuningDataModule",
        "init_args": {
            "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(scratch / "toybench")}},
            "tokenizer": str(scratch / "toybench/tokenizer"),
            "rows": {"length": shape["max_position_embeddings"], "per_step": given.rows * given.batches},
            "instances": {"validation": 4},
            "evaluation": {"max_new_tokens": 16},
            "cache": str(scratch / "store"),
        },
    }
    return recipe


if __name__ == "__main__":
    main()
