"""crosstask's data in a Lightning training of your own: your module, your loss, your collection of tasks beside ours.

Nothing here comes from ``crosstask.lightning_modules``. Rows hold one document each (``one_per_row``), so that any
causal model reads them with its own attention: padding is at the end, where no token attends to it. Packed rows train
about twice as many tokens a second; they need ``attn_implementation="document"`` (see the README)::

    python examples/own_lightning_project.py [folder]
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig

from crosstask.datamodules import Bench, Benchmark, InstructionTuningDataModule, NaturalInstructions
from crosstask.datamodules.benchmarks import Split
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.mixture.proportions import MixtureRules
from crosstask.datamodules.packing.row_settings import Rows
from crosstask.datamodules.schema import IGNORE_INDEX, CausalBatch, Example, PromptBatch, Task
from crosstask.datamodules.splits import Instances
from crosstask.datamodules.toybench.writer import write_toybench


class Opposites(Benchmark):
    """Benchmark of one task, defined in this file: its name, metadata and examples."""

    name = "opposites"
    pairs = (("hot", "cold"), ("big", "small"), ("old", "new"), ("fast", "slow"), ("up", "down"), ("wet", "dry"))

    def task_names(self, split: Split) -> list[str]:
        return ["words"] if split == "train" else []

    def task(self, name: str) -> Task:
        return Task(self.name, name, category="Word Semantics", definition="Write the opposite.")

    def examples(self, name: str) -> Iterator[Example]:
        both = (*self.pairs, *((right, left) for left, right in self.pairs))
        return (Example(name, word, index, word, (opposite,)) for index, (word, opposite) in enumerate(both))

    def fingerprint(self, name: str) -> str:
        return f"opposites 1 {self.pairs}"


class PlainModule(L.LightningModule):
    """LightningModule without crosstask's classes: a model of transformers, a loss, an optimizer."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        self.model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=vocabulary, **size))
        self.losses: list[float] = []

    def training_step(self, batch: CausalBatch, batch_idx: int) -> torch.Tensor:
        loss = self._loss(batch) / batch.step_targets  # one mean over the step's target tokens
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: CausalBatch | PromptBatch, batch_idx: int) -> None:
        if isinstance(batch, CausalBatch):  # the loss; prompts to answer come after it
            self.log("validation/loss", self._loss(batch) / batch.step_targets, reduce_fx="sum")

    def _loss(self, batch: CausalBatch) -> torch.Tensor:
        logits = self.model(input_ids=batch.input_ids, position_ids=batch.position_ids).logits
        # Targets are shifted already: column i's target is the token in column i + 1.
        return cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main(folder: Path, steps: int = 60) -> PlainModule:
    """Train, and return the trained module."""
    L.seed_everything(0, verbose=False)
    write_toybench(folder / "toybench", instances=130)
    bench = Bench({"toy": NaturalInstructions(str(folder / "toybench")), "own": Opposites()}, rules="all")
    data = InstructionTuningDataModule(
        bench,
        tokenizer=str(folder / "toybench/tokenizer"),
        rows=Rows(length=96, per_step=16, packing="one_per_row"),
        mixture=MixtureRules(proportions={"own": 0.1}),
        evaluation=Evaluation(max_new_tokens=8),
        instances=Instances(validation=1),
        cache=str(folder / "store"),
    )
    module = PlainModule(len(data.preparation.tokenizer))
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        use_distributed_sampler=False,  # the datamodule deals rows to replicas by itself
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    print("\n".join(data.describe().lines(depth=1)))
    print(f"loss of the first and of the last five steps: {mean(module.losses[:5]):.2f} {mean(module.losses[-5:]):.2f}")
    return module


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
