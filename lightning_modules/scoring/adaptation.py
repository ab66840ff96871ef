"""Adapting a frozen language model to tasks through a scorer (Cappy, arXiv 2311.06720, section 3.3).

For each task the scorer learns from the task's training instances: their references, mismatches, and what the language
model itself answered to them. Then it chooses among the model's answers to the test instances. The model is a black box
that is never trained; its answers are files of samples.
"""

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L
import torch

from ...datamodules.benchmarks import Benchmark, Split
from ...datamodules.rendering.prompts import PromptForm
from ...datamodules.schema import Example, Task
from ...datamodules.scorer import ScorerDataModule
from ..scorer import ScorerModule
from .losses import ScorerLoss


class OneTask(Benchmark):
    """One task of a benchmark, to be trained, and tested on instances of its own where `tested`.

    Args:
        benchmark: Where it comes from.
        name: Of the task.
        tested: Whether the first instances of its file are left to the test.
    """

    def __init__(self, benchmark: Benchmark, name: str, tested: bool) -> None:
        self.benchmark, self.name, self.tested = benchmark, name, tested

    def task_names(self, split: Split) -> list[str]:
        return [self.name] if split == "train" or (split == "test" and self.tested) else []

    def task(self, name: str) -> Task:
        return self.benchmark.task(name)

    def examples(self, name: str) -> Iterator[Example]:
        return self.benchmark.examples(name)

    def fingerprint(self, name: str) -> str:
        return self.benchmark.fingerprint(name)


@dataclass(frozen=True)
class ScorerTraining:
    """How a scorer is adapted to a task; the defaults are the paper's.

    Args:
        pretrained: Hub name or folder of the scorer to start from; a bare encoder is the ablation without pretraining.
        config: Random weights instead: fields of a configuration with model_type.
        tokenizer: By default that of `pretrained`.
        loss: regression is the paper's; pairwise trains a reward model, listwise a ranking of all responses.
        label_temperature: As the module's.
        steps: Optimizer steps.
        batch: Pairs of a step, about: a row of pairs is never split.
        learning_rate: Peak of the schedule, which warms up for a tenth of its steps and decays to 0.
        schedule_steps: Steps that the schedule is laid out for; `steps` where it is left out. The released program
            takes 800 steps of 128 pairs of a schedule of 12,800 on one device: it ends in the warm-up, at 1.25e-5.
        row_length: Columns of a packed row; for a ranking loss more, where an instruction needs them for all its
            responses, up to those of a whole step.
        pair_length: Most tokens of a pair.
        train_examples: Most training examples of a task.
        faithful: Draw mismatches as Cappy's released program does.
        accelerator: As the trainer's.
        precision: As the trainer's.
        seed: Of dropout, mixture, and a new head.
    """

    pretrained: str | None = None
    config: dict[str, Any] | None = None
    tokenizer: str | None = None
    loss: ScorerLoss = "regression"
    label_temperature: float = 0.1
    steps: int = 400
    batch: int = 256
    learning_rate: float = 2e-5
    schedule_steps: int | None = None
    row_length: int = 2048
    pair_length: int = 512
    train_examples: int = 500_000
    faithful: bool = False
    accelerator: str = "auto"
    precision: str = "32-true"
    seed: int = 0

    @property
    def tokenizer_name(self) -> str:
        name = self.tokenizer or self.pretrained
        if name is None:
            raise ValueError("a scorer with random weights needs a tokenizer: set training.tokenizer")
        return name


class Adapted(NamedTuple):
    """A scorer that learned a task, and what that cost.

    Args:
        module: The scorer.
        pairs: Different training pairs.
        parted: Instructions whose responses a ranking loss compared in parts, because no row could hold all.
        pairs_per_step: On average.
        seconds: Of the training alone.
        memory: Greatest memory in MiB: of the device on CUDA, else of the process so far.
        storage: MiB of the weights, which is what adapting to the task adds to a disk.
    """

    module: ScorerModule
    pairs: int
    parted: int
    pairs_per_step: float
    seconds: float
    memory: float
    storage: float


def adapt(
    benchmark: Benchmark,
    task: str,
    training: ScorerTraining,
    *,
    prompt: PromptForm,
    samples: list[str],
    test_examples: int,
    rendering_seed: int,
    cache: str,
) -> Adapted:
    """Train a scorer on one task.

    Args:
        benchmark: Of the training instances.
        task: Its name.
        training: How.
        prompt: How instructions are rendered.
        samples: Files of the language model's answers; none is the ablation without augmentation.
        test_examples: How many first instances of the task's file are the test's; 0 where `benchmark` holds none.
        rendering_seed: Decides how instructions read, and which instances train.
        cache: Folder of the store.

    Raises:
        ValueError: Nothing can be learned from the task's training instances.
    """
    data = _data(benchmark, task, training, prompt, samples, test_examples, rendering_seed, cache)
    pairs_per_row = fit_rows(data, training.batch)
    L.seed_everything(training.seed, verbose=False)
    module = ScorerModule(
        training.tokenizer_name,
        pretrained=training.pretrained,
        config=training.config,
        row_length=data.row_length,
        total_steps=training.schedule_steps or training.steps,
        loss=training.loss,
        label_temperature=training.label_temperature,
        learning_rate=training.learning_rate,
        seed=training.seed,
    )
    trainer = L.Trainer(
        accelerator=training.accelerator,
        devices=1,
        precision=training.precision,  # type: ignore[arg-type]
        max_steps=training.steps,
        max_epochs=-1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    if cuda := torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    seconds = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else _process_memory()
    storage = sum(weight.nbytes for weight in module.scorer.parameters()) / 2**20
    assert data.plan is not None
    parted = data.plan.groups.cut if data.plan.groups else 0
    pairs_per_step = data.rows_per_step * pairs_per_row
    return Adapted(module.eval(), data.report().examples, parted, pairs_per_step, seconds, memory, storage)


def fit_rows(data: ScorerDataModule, batch: int) -> float:
    """Choose the rows of a step for about `batch` pairs, and their length for groups; return the pairs of a row.

    A step is one batch, so that longer rows, of which there are fewer, take no more memory: a row that holds the whole
    step is the longest there is.
    """
    assert data.plan is not None
    found = data.report()
    if data.plan.groups is not None:
        step = round(batch * found.real_tokens / max(found.draws, 1))
        data.row_length = max(data.row_length, min(data.plan.groups.longest, step))
        data.setup("fit")
        found = data.report()
    pairs_per_row = found.draws / max(found.rows, 1)
    data.rows_per_step = max(1, round(batch / pairs_per_row))
    data.setup("fit")
    return pairs_per_row


def _data(
    benchmark: Benchmark,
    task: str,
    training: ScorerTraining,
    prompt: PromptForm,
    samples: list[str],
    test_examples: int,
    rendering_seed: int,
    cache: str,
) -> ScorerDataModule:
    """What trains the scorer, with one row a step."""
    data = ScorerDataModule(
        OneTask(benchmark, task, tested=test_examples > 0),
        training.tokenizer_name,
        prompt=prompt,
        row_length=training.row_length,
        pair_length=training.pair_length,
        rows_per_step=1,
        grouped=training.loss != "regression",
        train_examples=training.train_examples,
        validation_examples=0,
        test_examples=max(test_examples, 1),
        samples=samples,
        faithful=training.faithful,
        cache=cache,
        seed=rendering_seed,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def _process_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
