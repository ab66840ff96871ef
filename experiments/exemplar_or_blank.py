"""Does an extractor find out by itself that a solved example teaches more than a blank? (Section 4.2 and Figure 3 of
Differentiable Instruction Optimization, arXiv 2306.10098, in small.)

Every inner instance may be preceded by a blank or by one solved instance of its task; outer instances always show one,
as the test will. The extractor begins with the blank and is told nothing but the outer loss::

    python experiments/exemplar_or_blank.py runs/exemplar_or_blank [--seeds 3] [--words]

The tasks are real ones of Super-NaturalInstructions where CROSSTASK_DATA points, read by a model that learns to choose
but not to answer. With --words they are made of the embedded benchmark's words, offline: each task answers whatever
list it is given with the same two words of its own, so that nothing but an exemplar tells the answer, and a small model
learns to read it. Prints the share of choices that fall on the exemplar for both parameterizations,
and for a control whose hypergradients are shuffled among the exemplars; and the test's ROUGE-L, with one example
shown, beside models that were trained with the exemplar or with the blank alone. ``curves.svg`` draws the shares after
every step of phi; a run that is found in ``results.jsonl`` is not repeated.
"""

import argparse
import itertools
import json
import math
import random
import statistics
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch

from crosstask.commands.tokenizer import train_tokenizer
from crosstask.datamodules import NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.benchmarks import Split
from crosstask.datamodules.bilevel.bilevel_settings import BilevelRows, InstructionTexts, Levels
from crosstask.datamodules.bilevel.bilevel_stream import BilevelBatch
from crosstask.datamodules.bilevel.meta_split import CategorySplit
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.splits import Instances
from crosstask.datamodules.toybench.tasks import POOLS
from crosstask.datamodules.toybench.writer import TEST_INSTANCES, write_toybench
from crosstask.lightning_modules.hypergradients import Hypergradient
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instructed_loss import reader
from crosstask.lightning_modules.instructions.instruction_kinds import Representation
from crosstask.lightning_modules.instructions.learnable_instructions import Extractor, InstanceExtractor
from crosstask.lightning_modules.instructions.outer_methods import OuterSettings

SPLITS: tuple[Split, Split] = ("train", "test")
Kind = Literal["direct_extractor", "instance_extractor", "first_exemplar"]
LENGTH, EXEMPLARS = 48, 4  # three blanks: a choice by chance is the exemplar in one of four
TRAIN_TASKS, TEST_TASKS, LONGEST = 60, 20, 400  # characters of a real prompt


class Setting(NamedTuple):
    """A model, and how much it is trained.

    Args:
        width: Of the model.
        layers: Of the model.
        steps: Of theta, of a whole run.
        inner_steps: Of theta, for one of phi.
        inner_rows: Of a step of theta.
        outer_rows: Of a step of phi.
        learning_rate: Of theta.
        outer_categories: Whose tasks are outer ones.
        test_examples: Of each test task.
    """

    width: int
    layers: int
    steps: int
    inner_steps: int
    inner_rows: int
    outer_rows: int
    learning_rate: float
    outer_categories: int
    test_examples: int

    @property
    def config(self) -> dict[str, Any]:
        """Fields of the model's configuration."""
        sizes = {"hidden_size": self.width, "intermediate_size": 3 * self.width, "num_hidden_layers": self.layers}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "initializer_range": 0.06}
        return {"model_type": "llama", **sizes, **heads, "tie_word_embeddings": self.layers > 1}


SMALL = Setting(
    width=32,
    layers=1,
    steps=120,
    inner_steps=2,
    inner_rows=8,
    outer_rows=16,
    learning_rate=1e-3,
    outer_categories=4,
    test_examples=10,
)
LEARNS = Setting(
    width=96,
    layers=3,
    steps=400,
    inner_steps=2,
    inner_rows=16,
    outer_rows=16,
    learning_rate=3e-3,
    outer_categories=4,
    test_examples=10,
)
"""Enough to learn to read an exemplar, so that what was trained with shows in the answers."""

ARMS: dict[str, dict[str, Any]] = {
    "direct": {"kind": "direct_extractor"},
    "instance": {"kind": "instance_extractor"},
    "exemplar alone": {"kind": "first_exemplar", "blanks": False},
    "blank alone": {"kind": "first_exemplar"},
    "direct, shuffled": {"kind": "direct_extractor", "control": True},
    "instance, shuffled": {"kind": "instance_extractor", "control": True},
}


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
        """All exemplars score alike at first, as a table of logits does: the first one, a blank, is chosen."""
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
        if "train/last_exemplar_share" in trainer.callback_metrics and batch.outer is not None:
            self.values.append(trainer.callback_metrics["train/last_exemplar_share"].item())


def fitted(
    benchmark: NaturalInstructions,
    tokenizer: str,
    kind: Kind,
    setting: Setting,
    *,
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
        setting: The model, and how much it is trained.
        seed: Of everything.
        blanks: Whether all exemplars but the last are blank.
        control: Whether hypergradients are shuffled.
        options: Arguments of the module in place of those here.
    """
    L.seed_everything(seed, verbose=False)
    exemplars = EXEMPLARS if blanks else 1
    data = InstructionOptimizationDataModule(
        benchmark,
        tokenizer,
        CategorySplit(setting.outer_categories, seed=seed),  # where nothing is learned, too: all train on the same
        prompt=TkInstructPrompt(positive_examples=1, definition=False),
        levels=Levels(
            inner_prompt=TkInstructPrompt(positive_examples=0, definition=False),
            inner_steps=setting.inner_steps,
            inner_rows=setting.inner_rows,
            outer_rows=setting.outer_rows,
        ),
        rows=BilevelRows(length=192),
        instructions=InstructionTexts(length=LENGTH, exemplars=exemplars, blank=blanks),
        instances=Instances(train=100, validation=0, test=setting.test_examples),
        evaluation=Evaluation(max_new_tokens=16),
        seed=seed,
    )
    settings: dict[str, Any] = {
        "config": setting.config,
        "representation": Representation(width=setting.width),
        "learning_rate": setting.learning_rate,
        "warmup_steps": min(60, setting.steps),
        # adam_preconditioned takes the step that Adam would take, not the plain gradient: a blank's gradients grow as
        # the model learns to read exemplars, and with them its pull.
        "outer": OuterSettings(learning_rate=0.05, method="adam_preconditioned", hessian_products=0),
        "seed": seed,
    }
    module = (ShuffledModule if control else InstructionOptimizationModule)(
        tokenizer,
        instruction=kind,
        row_length=192,
        total_steps=setting.steps,
        inner_steps=setting.inner_steps,
        instruction_length=LENGTH,
        exemplars=exemplars,
        **{**settings, **options},
    )
    shares = Shares()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=setting.steps,
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
    return fitted(benchmark, str(toybench / "tokenizer"), kind, SMALL._replace(steps=steps), seed=seed, **options)[-1]


def tasks(folder: Path) -> tuple[NaturalInstructions, str]:
    """Real tasks with short texts; and a tokenizer."""
    bundle = NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    if not (folder / "tokenizer").exists():
        train_tokenizer(bundle, str(folder / "tokenizer"), vocabulary=4096)
    for split, count in zip(SPLITS, (TRAIN_TASKS, TEST_TASKS), strict=True):
        names = [name for name in bundle.task_names(split) if is_short(bundle, name)]
        random.Random(0).shuffle(names)
        write_names(folder, split, names[:count])
    benchmark = NaturalInstructions("$CROSSTASK_DATA/superni", splits=str(folder.resolve()))
    return benchmark, str(folder / "tokenizer")


def word_tasks(folder: Path) -> tuple[NaturalInstructions, str]:
    """Tasks that answer every list with two words of their own, five to a category; and the embedded tokenizer."""
    write_toybench(folder / "toybench", instances=TEST_INSTANCES + 1)
    rng, words = random.Random(0), POOLS["word"] + POOLS["name"]
    answers = rng.sample(list(itertools.permutations(words, 2)), TRAIN_TASKS + 2 * TEST_TASKS)
    names = [f"task{number:03d}_answer_{first}_{second}" for number, (first, second) in enumerate(answers)]
    (folder / "tasks").mkdir(exist_ok=True)
    for number, (name, answer) in enumerate(zip(names, answers, strict=True)):
        lists = [f"list: {' '.join(rng.sample(words, rng.randint(2, 4)))}" for _ in range(62)]
        solved = [{"input": text, "output": " ".join(answer), "explanation": ""} for text in lists[:2]]
        record = {
            "Definition": [f"Answer {' '.join(answer)}."],
            "Categories": [f"Answering {number // 5}"],
            "Positive Examples": solved,
            "Negative Examples": [],
            "Instances": [
                {"id": f"{number}-{place}", "input": text, "output": [" ".join(answer)]}
                for place, text in enumerate(lists[2:])
            ],
        }
        (folder / "tasks" / f"{name}.json").write_text(json.dumps(record))
    write_names(folder, "train", names[:-TEST_TASKS])
    write_names(folder, "test", names[-TEST_TASKS:])
    return NaturalInstructions(str(folder.resolve()), splits="."), str(folder / "toybench/tokenizer")


def write_names(folder: Path, split: Split, names: list[str]) -> None:
    (folder / f"{split}_tasks.txt").write_text("\n".join(sorted(names)) + "\n")


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
    parser.add_argument("--words", action="store_true", help="tasks of the embedded benchmark's words; no real data")
    parser.add_argument("--steps", type=int, help="of theta, in place of 120, or 400 with --words")
    arguments = parser.parse_args()
    setting = LEARNS if arguments.words else SMALL
    setting = setting._replace(steps=arguments.steps or setting.steps)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    benchmark, tokenizer = (word_tasks if arguments.words else tasks)(arguments.folder)
    done = read_results(arguments.folder)
    for control in (False, True):
        for seed, arm in itertools.product(range(arguments.seeds), ARMS):
            options = ARMS[arm]
            if (arm, seed) in done or ("control" in options) != control:
                continue
            trainer, module, data, shares = fitted(benchmark, tokenizer, setting=setting, seed=seed, **options)
            result: dict[str, Any] = {"arm": arm, "seed": seed, "shares": shares}
            if not control:
                (scores,) = trainer.test(module, data, verbose=False)
                result["rouge_l"] = 100 * scores["test/rouge_l"]
            done[arm, seed] = result
            with open(arguments.folder / "results.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            shown = " ".join(f"{share:.2f}" for share in [*shares[:: max(len(shares) // 10, 1)], *shares[-1:]])
            print(f"{arm}, seed {seed}: {shown}  ROUGE-L {result.get('rouge_l', math.nan):.2f}", flush=True)
    curves = {
        arm: [result["shares"] for (name, _), result in sorted(done.items()) if name == arm and result["shares"]]
        for arm in ARMS
    }
    (arguments.folder / "curves.svg").write_text(svg({arm: runs for arm, runs in curves.items() if runs}))


def read_results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What earlier runs left, by arm and seed."""
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(result["arm"], result["seed"]): result for result in map(json.loads, lines)}


if __name__ == "__main__":
    main()
