"""Does an extractor find out by itself that a solved example teaches more than a blank? (Section 4.2 and Figure 3 of
Differentiable Instruction Optimization, arXiv 2306.10098, in small.)

Every inner instance may be preceded by a blank or by one solved instance of its task; outer instances always show one,
as the test will. The extractor begins with the blank and is told nothing but the outer loss::

    python examples/exemplar_or_blank.py runs/exemplar_or_blank [--seeds 3] [--steps 120]

The tasks are real ones of Super-NaturalInstructions where CROSSTASK_DATA points, or the embedded benchmark. Prints
the share of choices that fall on the exemplar for both parameterizations, and for a control whose hypergradients are
shuffled among the candidates; and the test's ROUGE-L, with one example shown, beside models that were trained with the
exemplar or with the blank alone. ``curves.json`` and ``curves.svg`` hold the shares after every step of phi.
"""

import argparse
import json
import os
import random
import statistics
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from crosstask.datamodules import NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.bilevel.stream import BilevelBatch
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.rendering.bpe import train_tokenizer
from crosstask.datamodules.toybench.writer import write_toybench
from crosstask.lightning_modules.hypergradients import Hypergradient
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instructed_loss import reader
from crosstask.lightning_modules.instructions.learnable_instructions import Extractor, InstanceExtractor

Kind = Literal["direct_extractor", "instance_extractor", "first_exemplar"]
LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 1}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 4, "initializer_range": 0.06}
INNER_STEPS, LENGTH, CANDIDATES = 2, 48, 4  # three blanks: a choice by chance is the exemplar in one of four
TRAIN_TASKS, TEST_TASKS, LONGEST = 60, 20, 400  # characters of a real prompt


class ShuffledModule(InstructionOptimizationModule):
    """The control: what each step of phi is given keeps its length and loses its meaning."""

    def _hypergradient(self, *arguments: Any, **options: Any) -> Hypergradient:
        found = super()._hypergradient(*arguments, **options)
        shuffled = [gradient * (1 - 2 * torch.randint(0, 2, ()).item()) for gradient in found.gradients]
        shuffled = [gradient.flatten()[torch.randperm(gradient.numel())].view_as(gradient) for gradient in shuffled]
        return found._replace(gradients=shuffled)


class Shares(L.Callback):
    """The share of choices on the exemplar, before the first step of phi and after each."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All candidates score alike at first, as a table of logits does: the first one, a blank, is chosen."""
        assert isinstance(pl_module, InstructionOptimizationModule)
        if isinstance(pl_module.instruction, InstanceExtractor):
            torch.nn.init.zeros_(pl_module.instruction.match.weight)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: BilevelBatch, batch_idx: int
    ) -> None:
        if not self.values:
            assert isinstance(pl_module, InstructionOptimizationModule)
            extractor = pl_module.instruction
            if isinstance(extractor, Extractor):
                with torch.no_grad():
                    self.values.append(extractor.share_of_last(batch.inner.inputs, reader(pl_module.language_model)))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: BilevelBatch, batch_idx: int
    ) -> None:
        if "train/last_candidate_share" in trainer.callback_metrics and batch.outer is not None:
            self.values.append(trainer.callback_metrics["train/last_candidate_share"].item())


def fitted(
    benchmark: NaturalInstructions,
    tokenizer: str,
    kind: Kind,
    *,
    steps: int,
    seed: int,
    blanks: bool = True,
    control: bool = False,
    **options: Any,
) -> tuple[L.Trainer, InstructionOptimizationModule, InstructionOptimizationDataModule, list[float]]:
    """Train for `steps` theta steps; the shares at first and after every step of phi.

    Args:
        benchmark: The tasks.
        tokenizer: Folder of its tokenizer.
        kind: What chooses; first_exemplar trains with the blank, or with the exemplar where there are no blanks.
        steps: Of theta.
        seed: Of everything.
        blanks: Whether all candidates but the last are blank.
        control: Whether hypergradients are shuffled.
        options: Arguments of the module in place of those here.
    """
    L.seed_everything(seed, verbose=False)
    candidates = CANDIDATES if blanks else 1
    data = InstructionOptimizationDataModule(
        benchmark,
        tokenizer,
        None if kind == "first_exemplar" else CategorySplit(4, seed=seed),
        prompt=TkInstructPrompt(positive_examples=1, definition=False),
        inner_prompt=TkInstructPrompt(positive_examples=0, definition=False),
        row_length=192,
        inner_steps=INNER_STEPS,
        inner_rows=8,
        outer_rows=16,
        instruction_length=LENGTH,
        candidates=candidates,
        blank_candidates=blanks,
        validation_examples=0,
        test_examples=10,
        max_new_tokens=16,
        seed=seed,
    )
    settings: dict[str, Any] = {
        "config": LLAMA,
        "representation_width": 32,
        "learning_rate": 1e-3,
        "warmup_steps": min(60, steps),
        "outer_learning_rate": 0.05,
        # The step that Adam would take, not the plain gradient: a blank's gradients grow as the model learns to read
        # exemplars, and with them its pull.
        "method": "adam_preconditioned",
        "hessian_products": 0,
        "seed": seed,
    }
    module = (ShuffledModule if control else InstructionOptimizationModule)(
        tokenizer,
        instruction=kind,
        row_length=192,
        total_steps=steps,
        inner_steps=INNER_STEPS,
        instruction_length=LENGTH,
        candidates=candidates,
        **{**settings, **options},
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
    return trainer, module, data, shares.values


def exemplar_shares(toybench: Path, kind: Kind, *, steps: int = 120, seed: int = 0, **options: Any) -> list[float]:
    """The shares on the embedded benchmark."""
    benchmark = NaturalInstructions(str(toybench))
    return fitted(benchmark, str(toybench / "tokenizer"), kind, steps=steps, seed=seed, **options)[-1]


def tasks(folder: Path) -> tuple[NaturalInstructions, str]:
    """Real tasks with short texts where CROSSTASK_DATA points, the embedded ones otherwise; and a tokenizer."""
    if "CROSSTASK_DATA" not in os.environ:
        if not (folder / "toybench").exists():
            write_toybench(folder / "toybench", instances=130)
        return NaturalInstructions(str(folder / "toybench")), str(folder / "toybench/tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    bundle = NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    if not (folder / "tokenizer").exists():
        train_tokenizer(bundle, str(folder / "tokenizer"), vocabulary=4096)
    for split, count in (("train", TRAIN_TASKS), ("test", TEST_TASKS)):
        names = [name for name in bundle.task_names(split) if is_short(bundle, name)]  # type: ignore[arg-type]
        random.Random(0).shuffle(names)
        (folder / f"{split}_tasks.txt").write_text("\n".join(sorted(names[:count])) + "\n")
    benchmark = NaturalInstructions("$CROSSTASK_DATA/superni", splits=str(folder.resolve()))
    return benchmark, str(folder / "tokenizer")


def is_short(benchmark: NaturalInstructions, name: str) -> bool:
    """Whether an instance and a solved example together are usually short, and there are enough instances."""
    task, examples = benchmark.task(name), list(benchmark.examples(name))
    if len(examples) < 100 or not task.positive_examples:
        return False
    shown = len(task.positive_examples[0].input + task.positive_examples[0].output)
    return shown + statistics.median(len(example.input + example.targets[0]) for example in examples) <= LONGEST


def svg(curves: dict[str, list[list[float]]], width: int = 640, height: int = 320) -> str:
    """Shares after each step of phi, one line a run, as in Figure 3."""
    colors = ("#0b5c9e", "#c8590c", "#9bb8d3", "#e5b48c")
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">']
    left, right, top, bottom = 50, width - 10, 10, height - 40
    for percent in (0, 50, 100):
        y = bottom - (bottom - top) * percent / 100
        parts.append(f'<path d="M{left} {y}H{right}" stroke="#e3e7ec"/><text x="8" y="{y + 4}">{percent}%</text>')
    for color, (name, runs) in zip(colors, curves.items(), strict=False):
        for run in runs:
            step = (right - left) / max(len(run) - 1, 1)
            points = " ".join(f"{left + i * step:.1f},{bottom - (bottom - top) * v:.1f}" for i, v in enumerate(run))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}"/>')
        place = left + 150 * list(curves).index(name)
        parts.append(f'<text x="{place}" y="{height - 8}" fill="{color}" font-size="12">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120, help="of theta; phi takes one in two")
    parser.add_argument("--no_test", action="store_true", help="leave out ROUGE-L and the models without a choice")
    arguments = parser.parse_args()
    benchmark, tokenizer = tasks(arguments.folder)
    curves: dict[str, list[list[float]]] = {}
    rouge: dict[str, list[float]] = {}
    arms: dict[str, dict[str, Any]] = {
        "direct": {"kind": "direct_extractor"},
        "instance": {"kind": "instance_extractor"},
        "direct, shuffled": {"kind": "direct_extractor", "control": True},
        "instance, shuffled": {"kind": "instance_extractor", "control": True},
    }
    fixed: dict[str, dict[str, Any]] = {
        "exemplar alone": {"kind": "first_exemplar", "blanks": False},
        "blank alone": {"kind": "first_exemplar"},
    }
    for seed in range(arguments.seeds):
        for arm, options in (arms if arguments.no_test else {**arms, **fixed}).items():
            trainer, module, data, shares = fitted(benchmark, tokenizer, steps=arguments.steps, seed=seed, **options)
            shown = " ".join(f"{share:.2f}" for share in [*shares[:: max(len(shares) // 10, 1)], *shares[-1:]])
            if arm in arms:
                curves.setdefault(arm, []).append(shares)
            if not arguments.no_test and "shuffled" not in arm:
                (scores,) = trainer.test(module, data, verbose=False)
                rouge.setdefault(arm, []).append(100 * scores["test/rouge_l"])
                shown += f"  ROUGE-L {rouge[arm][-1]:.2f}"
            print(f"{arm}, seed {seed}: {shown}", flush=True)
            (arguments.folder / "curves.json").write_text(json.dumps({"shares": curves, "rouge_l": rouge}, indent=1))
            (arguments.folder / "curves.svg").write_text(svg(curves))


if __name__ == "__main__":
    main()
