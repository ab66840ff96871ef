"""Does an extractor find out by itself that a solved example teaches more than a blank? (Section 4.2 and Figure 3 of
Differentiable Instruction Optimization, arXiv 2306.10098, in small.)

Every inner instance may be preceded by a blank or by one solved instance of its task; outer instances always show one,
as the test will. The extractor begins with the blank and is told nothing but the outer loss::

    python examples/exemplar_or_blank.py runs/exemplar_or_blank [--seeds 3] [--toybench]

The tasks are real ones of Super-NaturalInstructions where CROSSTASK_DATA points, read by a model that learns to choose
but not to answer. With --toybench they are the embedded ones, whose inputs do not tell what is to be done with them,
and a model that learns to answer. Prints the share of choices that fall on the exemplar for both parameterizations,
and for a control whose hypergradients are shuffled among the candidates; and the test's ROUGE-L, with one example
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

from crosstask.datamodules import InstructionTuningDataModule, NaturalInstructions, TkInstructPrompt
from crosstask.datamodules.benchmarks import Split
from crosstask.datamodules.bilevel.meta_split import CategorySplit, FileSplit, MetaSplit
from crosstask.datamodules.bilevel.stream import BilevelBatch
from crosstask.datamodules.instruction_optimization import InstructionOptimizationDataModule
from crosstask.datamodules.rendering.bpe import train_tokenizer
from crosstask.datamodules.toybench.writer import write_toybench
from crosstask.lightning_modules import InstructionTuningModule
from crosstask.lightning_modules.hypergradients import Hypergradient
from crosstask.lightning_modules.instruction_optimization import InstructionOptimizationModule
from crosstask.lightning_modules.instructions.instructed_loss import reader
from crosstask.lightning_modules.instructions.instruction_kinds import Representation
from crosstask.lightning_modules.instructions.learnable_instructions import Extractor, InstanceExtractor
from crosstask.lightning_modules.instructions.outer_methods import OuterSettings

SPLITS: tuple[Split, Split] = ("train", "test")
Kind = Literal["direct_extractor", "instance_extractor", "first_exemplar"]
LENGTH, CANDIDATES = 48, 4  # three blanks: a choice by chance is the exemplar in one of four
ALIKE = ("Text Copying", "Word Order", "Letter Case", "Element Selection", "Counting")
"""Categories of the embedded benchmark whose inputs are lists: a definition or an exemplar tells what to do."""
TRAIN_TASKS, TEST_TASKS, LONGEST = 60, 20, 400  # characters of a real prompt
PRETRAINING = 1600  # steps of 4 rows of 192 tokens


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
        outer: Categories whose tasks are outer ones, or the share of the tasks of whatever category that are.
        test_examples: Of each test task.
        exemplars_of: Whether the instances of a task are shown one and the same exemplar, or each its own.
    """

    width: int
    layers: int
    steps: int
    inner_steps: int
    inner_rows: int
    outer_rows: int
    learning_rate: float
    outer: int | float
    test_examples: int
    exemplars_of: Literal["task", "instance"] = "task"

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
    outer=4,
    test_examples=10,
)
LEARNS = Setting(
    width=96,
    layers=3,
    steps=300,
    inner_steps=5,
    inner_rows=16,
    outer_rows=16,
    learning_rate=1e-3,
    outer=0.25,
    test_examples=20,
    exemplars_of="instance",
)
"""Enough to answer the embedded tasks of ALIKE, so that what was trained with shows in the answers. There are five
categories, so each keeps tasks that are trained."""

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
    setting: Setting,
    *,
    seed: int,
    pretrained: str | None = None,
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
        pretrained: Folder of the weights to start from; random ones where it is left out.
        blanks: Whether all candidates but the last are blank.
        control: Whether hypergradients are shuffled.
        options: Arguments of the module in place of those here.
    """
    L.seed_everything(seed, verbose=False)
    candidates = CANDIDATES if blanks else 1
    data = InstructionOptimizationDataModule(
        benchmark,
        tokenizer,
        outer_tasks(benchmark, setting.outer, seed),  # also where nothing is learned: all train on the same tasks
        prompt=TkInstructPrompt(positive_examples=1, definition=False),
        inner_prompt=TkInstructPrompt(positive_examples=0, definition=False),
        row_length=192,
        inner_steps=setting.inner_steps,
        inner_rows=setting.inner_rows,
        outer_rows=setting.outer_rows,
        instruction_length=LENGTH,
        candidates=candidates,
        candidates_of=setting.exemplars_of,
        blank_candidates=blanks,
        validation_examples=0,
        test_examples=setting.test_examples,
        max_new_tokens=16,
        seed=seed,
    )
    settings: dict[str, Any] = {
        **({"pretrained": pretrained} if pretrained else {"config": setting.config}),
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
        candidates=candidates,
        **{**settings, **options},
    )
    shares = Shares()
    trainer = quiet_trainer(setting.steps, [shares])
    trainer.fit(module, data)
    return trainer, module, data, shares.values


def pretrained_on_others(folder: Path, setting: Setting) -> str:
    """A model that reads and writes the embedded benchmark's words: trained on the categories that are not ALIKE."""
    lists, model = folder / "others", folder / "pretrained"
    if model.exists():
        return str(model)
    whole = NaturalInstructions(str(folder / "toybench"))
    lists.mkdir(exist_ok=True)
    for split in SPLITS:
        write_names(lists, split, [n for n in whole.task_names(split) if whole.task(n).category not in ALIKE])
    benchmark, tokenizer = (
        NaturalInstructions(str(folder / "toybench"), str(lists.resolve())),
        folder / "toybench/tokenizer",
    )
    data = InstructionTuningDataModule(
        benchmark,
        str(tokenizer),
        prompt=TkInstructPrompt(positive_examples=0),
        row_length=192,
        rows_per_step=4,
        max_new_tokens=16,
        validation_examples=0,
        cache=str(folder / "store"),
    )
    module = InstructionTuningModule(
        str(tokenizer),
        config=setting.config,
        row_length=192,
        total_steps=PRETRAINING,
        learning_rate=1.4e-3,
        warmup_steps=60,
    )
    L.seed_everything(0, verbose=False)
    quiet_trainer(PRETRAINING).fit(module, data)
    module.language_model.save_pretrained(model)
    return str(model)


def quiet_trainer(steps: int, callbacks: list[L.Callback] | None = None) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=callbacks,
    )


def exemplar_shares(toybench: Path, kind: Kind, *, steps: int = 120, seed: int = 0, **options: Any) -> list[float]:
    """The shares on the embedded benchmark."""
    benchmark = NaturalInstructions(str(toybench))
    return fitted(benchmark, str(toybench / "tokenizer"), kind, SMALL._replace(steps=steps), seed=seed, **options)[-1]


def outer_tasks(benchmark: NaturalInstructions, outer: int | float, seed: int) -> MetaSplit:
    """Whole categories, or a share of all tasks, which stands in a file then."""
    if isinstance(outer, int):
        return CategorySplit(outer, seed=seed)
    names = benchmark.task_names("train")
    file = benchmark.splits / f"outer_tasks_{seed}.txt"
    file.write_text("\n".join(sorted(random.Random(seed).sample(names, round(outer * len(names))))) + "\n")
    return FileSplit(str(file), by_category=False)


def tasks(folder: Path, *, toybench: bool) -> tuple[NaturalInstructions, str]:
    """Real tasks with short texts, or the embedded ones; and a tokenizer."""
    if toybench:
        if not (folder / "toybench").exists():
            write_toybench(folder / "toybench", instances=400)
        whole = NaturalInstructions(str(folder / "toybench"))
        for split in SPLITS:
            names = [name for name in whole.task_names(split) if whole.task(name).category in ALIKE]
            write_names(folder, split, names)
        folder_of_tasks, tokenizer = str(folder / "toybench"), str(folder / "toybench/tokenizer")
        return NaturalInstructions(folder_of_tasks, splits=str(folder.resolve())), tokenizer
    bundle = NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    if not (folder / "tokenizer").exists():
        train_tokenizer(bundle, str(folder / "tokenizer"), vocabulary=4096)
    for split, count in zip(SPLITS, (TRAIN_TASKS, TEST_TASKS), strict=True):
        names = [name for name in bundle.task_names(split) if is_short(bundle, name)]
        random.Random(0).shuffle(names)
        write_names(folder, split, names[:count])
    benchmark = NaturalInstructions("$CROSSTASK_DATA/superni", splits=str(folder.resolve()))
    return benchmark, str(folder / "tokenizer")


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
    parser.add_argument("--toybench", action="store_true", help="the embedded benchmark, and a model that learns it")
    parser.add_argument("--steps", type=int, help="of theta, in place of 120, or 500 with --toybench")
    arguments = parser.parse_args()
    setting = LEARNS if arguments.toybench else SMALL
    setting = setting._replace(steps=arguments.steps or setting.steps)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    benchmark, tokenizer = tasks(arguments.folder, toybench=arguments.toybench)
    pretrained = pretrained_on_others(arguments.folder, setting) if arguments.toybench else None
    done = read_results(arguments.folder)
    for control in (False, True):
        for seed, arm in itertools.product(range(arguments.seeds), ARMS):
            options = ARMS[arm]
            if (arm, seed) in done or ("control" in options) != control:
                continue
            trainer, module, data, shares = fitted(
                benchmark, tokenizer, setting=setting, seed=seed, pretrained=pretrained, **options
            )
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
