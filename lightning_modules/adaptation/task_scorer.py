"""Adapting a frozen language model to tasks through a scorer (Cappy, arXiv 2311.06720, section 3.3).

For each task the scorer learns from the task's training instances: their references, mismatches, and what the language
model itself answered to them. Then it chooses among the model's answers to the test instances. The model is a black box
that is never trained; its answers are files of samples.
"""

import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import lightning as L
import numpy as np
import torch

from ...datamodules.benchmarks import Benchmark, Split
from ...datamodules.rendering.prompts import PromptForm
from ...datamodules.schema import Example, Task
from ...datamodules.scorer import ScorerDataModule
from ...datamodules.scoring.sampled_examples import Part, SampledExamples
from ...datamodules.scoring.samples import ModelSamples
from ...datamodules.scoring.scorer_settings import Augmentation, PairRows
from ...datamodules.splits import Instances
from ..models import Network
from ..optimization import Optimization
from ..scorer import ScorerModule
from ..scoring.calibration import Calibration, fit_calibration
from ..scoring.sampled_responses import read_sampled_responses, score_responses, to_scored_responses
from .scorer_training import ScorerTraining


class SingleTaskBenchmark(Benchmark):
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


class AdaptedScorer(NamedTuple):
    """A scorer that learned a task, and what that cost.

    Args:
        module: The scorer.
        calibration: What its scores are worth, where examples were held out for that.
        pairs: Different training pairs.
        unanswered: Training examples without an answer of the language model, where it learns from answers.
        cut: Pairs that were longer than `pair_length`.
        response_cut: Those of them that lost a part of the response.
        parted: Instructions whose responses a ranking loss compared in parts, because no row could hold all.
        pairs_per_step: On average.
        seconds: Of the training alone.
        memory: Greatest memory in MiB: of the device where it was trained on CUDA, else of the process so far.
        storage: MiB of the weights, which is what adapting to the task adds to a disk.
        parameters: Of the scorer.
    """

    module: ScorerModule
    calibration: Calibration | None
    pairs: int
    unanswered: int
    cut: int
    response_cut: int
    parted: int
    pairs_per_step: float
    seconds: float
    memory: float
    storage: float
    parameters: int

    def cost(self) -> dict[str, float]:
        """The numbers."""
        return {name: value for name, value in self._asdict().items() if name not in ("module", "calibration")}


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
    augmentation: bool = True,
) -> AdaptedScorer:
    """Train a scorer on one task; it stays on the device where it was trained.

    Args:
        benchmark: Of the training instances.
        task: Its name.
        training: How.
        prompt: How instructions are rendered.
        samples: Files of the language model's answers to training instances.
        test_examples: How many first instances of the task's file are the test's; 0 where `benchmark` holds none.
        rendering_seed: Decides how instructions read, and which instances train.
        cache: Folder of the store.
        augmentation: Whether to train on the answers; without them is an ablation of the paper.

    Raises:
        ValueError: Nothing can be learned from the task's training instances, or no answers are there to calibrate by.
    """
    learned = samples if augmentation else []
    data = _data(benchmark, task, training, prompt, learned, test_examples, rendering_seed, cache)
    unanswered = len(_without_answers(data, task)) if augmentation else 0
    pairs_per_row = set_rows_per_step(data, training.batch, training.accumulate)
    L.seed_everything(training.seed, verbose=False)
    module = ScorerModule(
        training.tokenizer_name,
        pretrained=training.pretrained,
        config=training.config,
        row_length=data.rows.length,
        total_steps=training.schedule_steps or training.steps,
        loss=training.loss,
        label_temperature=training.label_temperature,
        network=Network(gradient_checkpointing=training.gradient_checkpointing),
        optimizer=Optimization(learning_rate=training.learning_rate, warmup=0.1),
        seed=training.seed,
    )
    trainer = L.Trainer(
        accelerator=training.accelerator,
        devices=1,
        precision=training.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=training.accumulate,
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
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    seconds = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _process_memory()
    module.to(device)  # the trainer leaves it on the CPU, where many responses would take long to score
    assert data.plan is not None
    found = data.plan.report()
    weights = list(module.scorer.parameters())
    return AdaptedScorer(
        module.eval(),
        calibrated(module, data, samples) if training.calibration_examples else None,
        pairs=found.examples,
        unanswered=unanswered,
        cut=found.truncated,
        response_cut=found.target_cut,
        parted=data.plan.groups.cut if data.plan.groups else 0,
        pairs_per_step=data.rows.per_step * pairs_per_row,
        seconds=seconds,
        memory=memory,
        storage=sum(weight.nbytes for weight in weights) / 2**20,
        parameters=sum(weight.numel() for weight in weights),
    )


def calibrated(module: ScorerModule, data: ScorerDataModule, samples: list[str]) -> Calibration:
    """What a scorer's scores are worth on the language model's answers to the examples that its training held out.

    Raises:
        ValueError: An example that is held out has no answer.
    """
    sampled = read_sampled_responses(_part(data, "validation"), ModelSamples(samples))
    encoder = module.cross_encoder(max_length=data.rows.pair_length, truncation=data.rows.truncation)
    scores = score_responses(encoder, sampled)
    quality = [to_scored_responses(each).quality for each in sampled]
    return fit_calibration(np.concatenate(scores), np.concatenate(quality))


def _part(data: ScorerDataModule, part: Part) -> SampledExamples:
    """The examples of a part, as they are dealt for training."""
    counts = data.instances
    return SampledExamples(
        data.benchmark,
        data.prompt,
        [part],
        train_examples=counts.train or 0,
        validation_examples=counts.validation,
        test_examples=counts.test,
        seed=data.seed,
    )


def _without_answers(data: ScorerDataModule, task: str) -> list[str]:
    """Training examples of a task that the language model did not answer.

    Raises:
        ValueError: It answered none.
    """
    answered = data.samples.of(task)
    trained = [each.example.id for each in _part(data, "train").prompts()]
    missing = [example for example in trained if example not in answered]
    if len(missing) == len(trained):
        raise ValueError(
            f"no answer to any of the {len(trained)} training instances of {task}: sample them, or set augmentation: "
            f"false. Instances that are held out to calibrate ({data.instances.validation}) are sampled as the part "
            "validation, with as many validation_examples"
        )
    return missing


def set_rows_per_step(data: ScorerDataModule, batch: int, accumulate: int = 1) -> float:
    """Choose the rows of a step for about `batch` pairs, and their length for groups; return the pairs of a row.

    A step is read in `accumulate` batches of equally many rows. Longer rows, of which there are fewer, take no more
    memory: a row that holds a whole batch is the longest there is.
    """
    assert data.plan is not None
    found = data.plan.report()
    if data.plan.groups is not None:
        columns = round(batch / accumulate * found.real_tokens / max(found.draws, 1))
        data.rows = replace(data.rows, length=max(data.rows.length, min(data.plan.groups.longest, columns)))
        data.setup("fit")
        found = data.plan.report()
    pairs_per_row = found.draws / max(found.rows, 1)
    data.rows = replace(data.rows, per_step=accumulate * max(1, round(batch / accumulate / pairs_per_row)))
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
        SingleTaskBenchmark(benchmark, task, tested=test_examples > 0),
        training.tokenizer_name,
        prompt=prompt,
        rows=PairRows(
            length=training.row_length,
            pair_length=training.pair_length,
            truncation=training.truncation,
            per_step=1,
            grouped=training.loss != "regression",
        ),
        instances=Instances(
            train=training.train_examples, validation=training.calibration_examples, test=max(test_examples, 1)
        ),
        augmentation=Augmentation(samples=samples, faithful=training.faithful),
        cache=cache,
        seed=rendering_seed,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def _process_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
