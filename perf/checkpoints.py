"""Seconds to save a sharded checkpoint of OPT-1.3B's shape, to resume from it, and to export it.

    python perf/checkpoints.py [--layers 24] [--folder FOLDER]

Two CPU processes under FSDP2 take one AdamW step in float32 and save; two new ones resume from the folder; one process
exports it. All 24 layers need 16 bytes of memory and of disk for each of 1.3 billion parameters.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
from common import print_result

from crosstask.commands.export import export_checkpoint
from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.packing.row_settings import Rows
from crosstask.datamodules.toybench.writer import write_toybench
from crosstask.lightning_modules import InstructionTuningModule, ShardedStrategy
from crosstask.lightning_modules.optimization import Optimization

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


class Timed(ShardedStrategy):
    """Strategy that prints the seconds of saving and loading checkpoints."""

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        super().save_checkpoint(*args, **kwargs)
        self.print_seconds("save", time.perf_counter() - start)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        start = time.perf_counter()
        checkpoint = super().load_checkpoint(*args, **kwargs)
        self.print_seconds("load", time.perf_counter() - start)
        return checkpoint

    def print_seconds(self, action: str, seconds: float) -> None:
        if self.global_rank == 0:
            print(f"{action}: {seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder if left out")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        fit(arguments.folder, arguments.layers)
        return
    folder = arguments.folder or Path(tempfile.mkdtemp())
    write_toybench(folder / "toybench", instances=130)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    words = [*TORCHRUN, __file__, "--layers", str(arguments.layers), "--folder", str(folder)]
    for _ in ("save", "load and resume"):
        subprocess.run(words, env=environment, check=True)
    size = sum(path.stat().st_size for path in (folder / "checkpoint").rglob("*"))
    start = time.perf_counter()
    export_checkpoint([str(folder / "checkpoint"), str(folder / "exported")])
    seconds = time.perf_counter() - start
    weights = sum(path.stat().st_size for path in (folder / "exported").glob("*.safetensors"))
    print(f"export: {seconds:.1f} s; checkpoint {size / 1e9:.1f} GB, weights {weights / 1e9:.1f} GB")
    copied = copy_seconds(folder / "exported", folder / "copy")
    setting = f"{arguments.layers} layers of OPT-1.3B, {weights / 1e9:.1f} GB, load {os.getloadavg()[0]:.0f}"
    print_result("export_over_copy", ours=seconds, peer=copied, unit="seconds", setting=setting)
    if arguments.folder is None:
        shutil.rmtree(folder)


def copy_seconds(source: Path, target: Path) -> float:
    """Return the seconds to copy the same bytes, which is the limit of the disk."""
    start = time.perf_counter()
    shutil.copytree(source, target)
    return time.perf_counter() - start


def fit(folder: Path, layers: int) -> None:
    checkpoint = folder / "checkpoint"
    resumes = checkpoint.exists()
    config = {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": 2048,
        "word_embed_proj_dim": 2048,
        "ffn_dim": 8192,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    }
    tokenizer = str(folder / "toybench/tokenizer")
    module = InstructionTuningModule(
        tokenizer, config=config, optimizer=Optimization(warmup=0), total_steps=2, row_length=64
    )
    data = InstructionTuningDataModule(
        NaturalInstructions(str(folder / "toybench")),
        tokenizer=tokenizer,
        rows=Rows(length=64, per_step=2),
        evaluation=Evaluation(max_new_tokens=8),
        cache=str(folder / "store"),
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=Timed(),
        max_steps=2 if resumes else 1,
        max_epochs=-1,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=str(checkpoint) if resumes else None)
    if not resumes:
        trainer.save_checkpoint(checkpoint)


if __name__ == "__main__":
    main()
