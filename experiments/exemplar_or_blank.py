"""Does an extractor learn to choose an exemplar rather than a blank? A small version of section 4.2 and Figure 3 of
Differentiable Instruction Optimization (arXiv 2306.10098).

The extractor chooses among three blanks and one solved instance of the task for every inner instance. Outer and test
instances always have one solved example. At first it chooses a blank, and it is trained on the outer loss alone::

    python experiments/exemplar_or_blank.py runs/exemplar_or_blank [--seeds 3] [--words]

The tasks are from Super-NaturalInstructions in CROSSTASK_DATA; the model is too small to learn to answer them. With
--words, tasks are made of the embedded benchmark's words, offline: a task answers every list with the same two words,
which only an exemplar shows, and a small model learns to read it. Prints the share of choices on the exemplar for both
parameterizations, and for a control with shuffled hypergradients; and the 1-shot ROUGE-L of the test, also for models
that are trained with the exemplar alone or with the blank alone. ``curves.svg`` shows the shares after every step of
phi. Runs in ``results.jsonl`` are not repeated.
"""

import argparse
import itertools
import json
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from shared_runs import append_result, cpu_trainer, draw_tasks, read_results, write_names
from transformers import PreTrainedTokenizerBase

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
from crosstask.lightning_modules.instructions.instructed_loss import model_functions
from crosstask.lightning_modules.instructions.instruction_kinds import InstructionSettings, Representation
from crosstask.lightning_modules.instructions.learnable_instructions import Extractor, InstanceExtractor
from crosstask.lightning_modules.instructions.outer_settings import OuterSettings
from crosstask.lightning_modules.optimization import Optimization

Kind = Literal["direct_extractor", "instance_extractor", "first_exemplar"]
LENGTH, EXEMPLARS = 48, 4  # three blanks and an exemplar
TRAIN_TASKS, TEST_TASKS, LONGEST = 60, 20, 400  # characters of a real prompt


class Setting(NamedTuple):
    """Size of the model and of its training.

    Args:
        width: Width of the model.
        layers: Layers of the model.
        steps: Inner steps of a run.
        inner_steps: Inner steps for one outer step.
        inner_rows: Rows of an inner step.
        outer_rows: Rows of an outer step.
        learning_rate: Peak learning rate of theta.
        outer_categories: Number of outer categories.
        test_examples: Instances of each test task.
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
"""Setting of a model that is large enough to learn to read an exemplar."""

ARMS: dict[str, dict[str, Any]] = {
    "direct": {"kind": "direct_extractor"},
    "instance": {"kind": "instance_extractor"},
    "exemplar alone": {"kind": "first_exemplar", "blanks": False},
    "blank alone": {"kind": "first_exemplar"},
    "direct, shuffled": {"kind": "direct_extractor", "control": True},
    "instance, shuffled": {"kind": "instance_extractor", "control": True},
}


class ShuffledModule(InstructionOptimizationModule):
    """Control: hypergradients are permuted and have a random sign, so that only their length is kept."""

    def _hypergradient(self, *arguments: Any, **options: Any) -> Hypergradient:
        result = super()._hypergradient(*arguments, **options)
        shuffled = [gradient * (1 - 2 * torch.randint(0, 2, ()).item()) for gradient in result.gradients]
        shuffled = [gradient.flatten()[torch.randperm(gradient.numel())].view_as(gradient) for gradient in shuffled]
        return result._replace(gradients=shuffled)


class Shares(L.Callback):
    """Callback that records the share of choices of the exemplar, before the first outer step and after every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make all initial scores equal, as in a table of logits, so that the first exemplar, a blank, is chosen."""
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
                    self.values.append(
                        extractor.share_of_last(batch.inner.inputs, model_functions(pl_module.language_model))
                    )

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
    """Train a module, and return trainer, module, data, and the shares at first and after every outer step.

    Args:
        benchmark: The tasks.
        tokenizer: Folder of the tokenizer.
        kind: Kind of instruction; first_exemplar trains with the blank, or with the exemplar if there are no blanks.
        setting: Size of the model and of its training.
        seed: Seed of the split, the data, the weights and dropout.
        blanks: Whether all exemplars but the last are blank.
        control: Whether hypergradients are shuffled.
        options: Arguments that override those of the module.
    """
    L.seed_everything(seed, verbose=False)
    exemplars = EXEMPLARS if blanks else 1
    data = InstructionOptimizationDataModule(
        benchmark,
        tokenizer,
        CategorySplit(
            setting.outer_categories, seed=seed
        ),  # also without learned instructions, so that all arms train on the same tasks
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
        "optimizer": Optimization(learning_rate=setting.learning_rate, warmup=min(60, setting.steps)),
        # adam_preconditioned takes the step that Adam would take, not the plain gradient: a blank's gradients grow as
        # the model learns to read exemplars, and with them its pull.
        "outer": OuterSettings(learning_rate=0.05, method="adam_preconditioned", hessian_products=0),
        "seed": seed,
    }
    module = (ShuffledModule if control else InstructionOptimizationModule)(
        tokenizer,
        instruction=InstructionSettings(
            kind, length=LENGTH, exemplars=exemplars, representation=Representation(width=setting.width)
        ),
        row_length=192,
        total_steps=setting.steps,
        inner_steps=setting.inner_steps,
        **{**settings, **options},
    )
    shares = Shares()
    trainer = cpu_trainer(setting.steps, shares)
    trainer.fit(module, data)
    return trainer, module, data, shares.values


def real_tasks(folder: Path) -> tuple[NaturalInstructions, str]:
    """Return real tasks with short texts, and the folder of a tokenizer."""
    counts: dict[Split, int] = {"train": TRAIN_TASKS, "test": TEST_TASKS}
    return draw_tasks(folder, counts, is_short, vocabulary=4096), str(folder / "tokenizer")


def word_tasks(folder: Path) -> tuple[NaturalInstructions, str]:
    """Return tasks that answer every list with the same two words, and the folder of the embedded tokenizer."""
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
                {"id": f"{number}-{index}", "input": text, "output": [" ".join(answer)]}
                for index, text in enumerate(lists[2:])
            ],
        }
        (folder / "tasks" / f"{name}.json").write_text(json.dumps(record))
    write_names(folder, "train", names[:-TEST_TASKS])
    write_names(folder, "test", names[-TEST_TASKS:])
    return NaturalInstructions(str(folder.resolve()), splits="."), str(folder / "toybench/tokenizer")


def is_short(benchmark: NaturalInstructions, name: str, _: PreTrainedTokenizerBase) -> bool:
    """Return whether an instance with a solved example usually has at most LONGEST characters."""
    task, examples = benchmark.task(name), list(benchmark.examples(name))
    if len(examples) < 100 or not task.positive_examples:
        return False
    solved = len(task.positive_examples[0].input + task.positive_examples[0].output)
    return solved + statistics.median(len(example.input + example.targets[0]) for example in examples) <= LONGEST


def plot_shares(curves: dict[str, list[list[float]]], path: Path) -> None:
    """Draw the shares after each outer step, one line per run, as in Figure 3."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(8, 4)).subplots()
    for number, (arm, runs) in enumerate(curves.items()):
        for run in runs:
            axes.plot(run, color=f"C{number}", label=arm if run is runs[0] else None)
    axes.set(xlabel="outer steps", ylabel="share of choices on the exemplar", ylim=(0, 1))
    axes.legend()
    axes.figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--words", action="store_true", help="tasks of the embedded benchmark's words; no real data")
    parser.add_argument("--steps", type=int, help="inner steps; 120, or 400 with --words, if left out")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], help="all if left out")
    arguments = parser.parse_args()
    setting = LEARNS if arguments.words else SMALL
    setting = setting._replace(steps=arguments.steps or setting.steps)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    benchmark, tokenizer = (word_tasks if arguments.words else real_tasks)(arguments.folder)
    done = read_results(arguments.folder)
    for control in (False, True):
        for seed, arm in itertools.product(range(arguments.seeds), arguments.arms):
            options = ARMS[arm]
            if (arm, seed) in done or ("control" in options) != control:
                continue
            begun = time.process_time()
            trainer, module, data, shares = fitted(benchmark, tokenizer, setting=setting, seed=seed, **options)
            result: dict[str, Any] = {"arm": arm, "seed": seed, "shares": shares}
            if not control:
                (scores,) = trainer.test(module, data, verbose=False)
                result["rouge_l"] = 100 * scores["test/rouge_l"]
            result["seconds"] = round(time.process_time() - begun, 1)
            done[arm, seed] = result
            append_result(arguments.folder, result)
            shown = " ".join(f"{share:.2f}" for share in [*shares[:: max(len(shares) // 10, 1)], *shares[-1:]])
            print(f"{arm}, seed {seed}: {shown}  ROUGE-L {result.get('rouge_l', math.nan):.2f}", flush=True)
    curves = {
        arm: [result["shares"] for (name, _), result in sorted(done.items()) if name == arm and result["shares"]]
        for arm in ARMS
    }
    plot_shares({arm: runs for arm, runs in curves.items() if runs}, arguments.folder / "curves.svg")


if __name__ == "__main__":
    main()
