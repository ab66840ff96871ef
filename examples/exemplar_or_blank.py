"""Does an extractor find out by itself that a solved example teaches more than a blank? (Section 4.2 and Figure 3 of
Differentiable Instruction Optimization, arXiv 2306.10098, in small.)

Every inner instance may be preceded by a blank or by one solved instance of its task; outer instances always show one,
as the test will. The extractor begins with the blank and is told nothing but the outer loss. Prints, for both
parameterizations, the share of choices that fall on the exemplar::

    python examples/exemplar_or_blank.py [folder]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from crosstask.datamodules import NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.bilevel_stream import BilevelBatch
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.meta_split import CategorySplit
from crosstask.datamodules.toybench import write_toybench
from crosstask.lightning_modules.instructed_loss import reader
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.learnable_instructions import Extractor

Kind = Literal["direct_extractor", "instance_extractor"]
LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 1}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 4, "initializer_range": 0.06}
INNER_STEPS, LENGTH = 2, 48


class Shares(L.Callback):
    """The share of choices on the exemplar, before the first step of phi and after each."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: BilevelBatch, batch_idx: int
    ) -> None:
        if not self.values:
            assert isinstance(pl_module, InstructionOptimizationModule)
            extractor = pl_module.instruction
            assert isinstance(extractor, Extractor)
            with torch.no_grad():
                self.values.append(extractor.share_of_last(batch.inner.inputs, reader(pl_module.language_model)))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: BilevelBatch, batch_idx: int
    ) -> None:
        if batch.outer is not None:
            self.values.append(trainer.callback_metrics["train/last_candidate_share"].item())


def exemplar_shares(toybench: Path, kind: Kind, *, steps: int = 120, seed: int = 0) -> list[float]:
    """Train for `steps` theta steps on the embedded benchmark; the share at first and after every step of phi."""
    L.seed_everything(seed, verbose=False)
    tokenizer = str(toybench / "tokenizer")
    data = InstructionOptimizationDataModule(
        NaturalInstructions(str(toybench)),
        tokenizer,
        CategorySplit(4, seed=seed),
        prompt=TkInstructPrompt(positive_examples=1, definition=False),
        inner_prompt=TkInstructPrompt(positive_examples=0, definition=False),
        row_length=192,
        inner_steps=INNER_STEPS,
        inner_rows=8,
        outer_rows=16,
        instruction_length=LENGTH,
        candidates=2,
        blank_candidates=True,
        validation_examples=0,
    )
    module = InstructionOptimizationModule(
        tokenizer,
        config=LLAMA,
        instruction=kind,
        row_length=192,
        total_steps=steps,
        inner_steps=INNER_STEPS,
        instruction_length=LENGTH,
        candidates=2,
        representation_width=32,
        learning_rate=1e-3,
        warmup_steps=min(60, steps),
        outer_learning_rate=0.05,
        hessian_products=0,
        gamma=1e-3,
    )
    shares = Shares()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[shares],
    )
    trainer.fit(module, data)
    return shares.values


def main(folder: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        toybench = Path(folder or scratch) / "toybench"
        write_toybench(toybench, instances=130)
        kinds: tuple[Kind, ...] = ("direct_extractor", "instance_extractor")
        for kind in kinds:
            for seed in range(3):
                shares = exemplar_shares(toybench, kind, seed=seed)
                shown = " ".join(f"{share:.2f}" for share in [*shares[::12], shares[-1]])
                print(f"{kind}, seed {seed}: {shown}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
