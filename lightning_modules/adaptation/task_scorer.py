"""Adaptation of a frozen language model to tasks through a scorer (Cappy, arXiv 2311.06720, section 3.3).

For each task, the scorer is trained on the task's training instances: their references, mismatches, and the language
model's own responses. It then selects among the model's responses to the test instances. The language model is never
trained or even loaded; its responses are sample files.
"""

import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.environments import LightningEnvironment

from ...datamodules.benchmarks import Benchmark, Split
from ...datamodules.packing.replicas import process_of_job
from ...datamodules.rendering.prompts import ChatPrompt, PromptForm
from ...datamodules.rouge import ROUGE_L, Rouge
from ...datamodules.schema import Example, Task
from ...datamodules.scorer import ScorerDataModule
from ...datamodules.scoring.pair_preparation import UNREAD_REFERENCES, UNUSED_SAMPLES
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
    """A benchmark that consists of one task of another one; the task trains, and with `tested` it is also tested.

    Args:
        benchmark: Benchmark that has the task.
        name: Name of the task.
        tested: Whether the first instances in the task's file are test instances.
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
    """A scorer trained on one task, and the cost of its training.

    Args:
        module: The trained scorer.
        chat: Whether it was trained on pairs in the tokenizer's chat template.
        calibration: Calibration of its scores; None without calibration examples.
        pairs: Number of distinct training pairs.
        unanswered: Number of training examples without a response of the language model; 0 without augmentation.
        option_examples: Number of training examples with options, whose responses are not trained on.
        unread: Number of training examples with responses whose references ROUGE-L cannot read.
        cut: Number of pairs that were longer than `pair_length`.
        response_cut: Number of pairs that lost a part of the response.
        split_groups: Number of instructions whose responses a ranking loss compared in several groups, because no row
            could hold them all.
        pairs_per_step: Mean number of pairs in a step.
        seconds: Duration of the training in seconds.
        memory: Peak memory in MiB: of the device on CUDA, else of the process so far.
        storage: MiB of the weights.
        parameters: Number of parameters.
    """

    module: ScorerModule
    chat: bool
    calibration: Calibration | None
    pairs: int
    unanswered: int
    option_examples: int
    unread: int
    cut: int
    response_cut: int
    split_groups: int
    pairs_per_step: float
    seconds: float
    memory: float
    storage: float
    parameters: int

    def cost(self) -> dict[str, float]:
        """Return the numbers, i.e. all fields but the module, how it reads pairs, and its calibration."""
        without = ("module", "chat", "calibration")
        return {name: value for name, value in self._asdict().items() if name not in without}


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
    rouge: Rouge = "exact",
) -> AdaptedScorer:
    """Train a scorer on one task and return it, on the training device, with counts and costs of the training.

    Args:
        benchmark: Benchmark of the training instances.
        task: Name of the task.
        training: Settings of the training.
        prompt: How examples are rendered as instructions.
        samples: Files of the language model's responses to training instances.
        test_examples: Number of test instances, which are the first of the task's file; 0 if `benchmark` has none.
        rendering_seed: Seed of rendering and of the choice of training instances.
        cache: Folder of the store of tokenized documents.
        augmentation: Whether to train on the language model's responses, too; False is an ablation of the paper.
        rouge: Implementation of ROUGE-L that labels the responses, as in the module's `rouge`.

    Raises:
        ValueError: The task has no training pairs, or there are no responses to train on or to calibrate with.
    """
    learned = samples if augmentation else []
    data = _data(benchmark, task, training, prompt, learned, test_examples, rendering_seed, cache, rouge)
    unanswered = len(_without_responses(data, task)) if augmentation else 0
    pairs_per_row = set_rows_per_step(data, training.batch, training.accumulate)
    module, trainer = _scorer(training, data.rows.length), _trainer(training)
    seconds, memory = _timed_fit(trainer, module, data)
    module.to(trainer.strategy.root_device)  # the trainer moves it to the CPU, where scoring many responses takes long
    assert data.plan is not None
    report = data.plan.report()
    weights = list(module.scorer.parameters())
    return AdaptedScorer(
        module.eval(),
        isinstance(prompt, ChatPrompt),
        calibrated(module, data, samples, rouge) if training.calibration_examples else None,
        pairs=report.examples,
        unanswered=unanswered,
        option_examples=report.remarks.get(UNUSED_SAMPLES, 0),
        unread=report.remarks.get(UNREAD_REFERENCES, 0),
        cut=report.truncated,
        response_cut=report.target_cut,
        split_groups=data.plan.groups.cut if data.plan.groups else 0,
        pairs_per_step=data.rows.per_step * pairs_per_row,
        seconds=seconds,
        memory=memory,
        storage=sum(weight.nbytes for weight in weights) / 2**20,
        parameters=sum(weight.numel() for weight in weights),
    )


def _scorer(training: ScorerTraining, row_length: int) -> ScorerModule:
    """Return the scorer before its training, initialized with the seed of the training."""
    L.seed_everything(training.seed, verbose=False)
    return ScorerModule(
        training.tokenizer_name,
        pretrained=training.pretrained,
        config=training.config,
        row_length=row_length,
        total_steps=training.schedule_steps or training.steps,
        loss=training.loss,
        label_temperature=training.label_temperature,
        network=Network(gradient_checkpointing=training.gradient_checkpointing),
        optimizer=Optimization(learning_rate=training.learning_rate, warmup=0.1),
        seed=training.seed,
    )


def _trainer(training: ScorerTraining) -> L.Trainer:
    """Return a trainer on this process's device, without validation, checkpoints or logs."""
    return L.Trainer(
        accelerator=training.accelerator,
        devices=own_devices(training.accelerator),
        plugins=[LightningEnvironment()],  # a process of a job trains its tasks alone
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


def _timed_fit(trainer: L.Trainer, module: ScorerModule, data: ScorerDataModule) -> tuple[float, float]:
    """Train; return the seconds and the peak memory in MiB: of the device on CUDA, else of the process so far."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    seconds = time.perf_counter() - began
    if device.type == "cuda":
        return seconds, torch.cuda.max_memory_allocated(device) / 2**20
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def own_devices(accelerator: str) -> list[int] | int:
    """Return the trainer's `devices` for a process that trains alone: the index of its GPU, or 1 (one CPU)."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return [process_of_job().local % torch.cuda.device_count()]
    return 1


def calibrated(module: ScorerModule, data: ScorerDataModule, samples: list[str], rouge: Rouge) -> Calibration:
    """Fit a calibration of a scorer's scores on the language model's responses to held-out training examples.

    Args:
        module: The trained scorer.
        data: Its datamodule, whose validation split is held out.
        samples: Files of the language model's responses.
        rouge: Implementation of ROUGE-L that measures the quality of a response.

    Raises:
        ValueError: A held-out example has no response.
    """
    sampled = read_sampled_responses(_part(data, "validation"), ModelSamples(samples))
    kind = data.row_kind
    chat = isinstance(data.prompt, ChatPrompt)
    encoder = module.cross_encoder(max_length=kind.pair_length, truncation=kind.truncation, cut=kind.part, chat=chat)
    scores = score_responses(encoder, sampled)
    quality = [to_scored_responses(one, rouge=rouge).quality for one in sampled]
    return fit_calibration(np.concatenate(scores), np.concatenate(quality))


def _part(data: ScorerDataModule, part: Part) -> SampledExamples:
    """Return the datamodule's examples of one split."""
    counts = data.instances
    return SampledExamples(
        data.benchmark,
        data.prompt,
        [part],
        train_examples=counts.train or 0,
        validation_examples=counts.validation,
        test_examples=counts.test,
        held_out_share=counts.held_out_share,
        seed=data.seed,
    )


def _without_responses(data: ScorerDataModule, task: str) -> list[str]:
    """Return the ids of a task's training examples without a response of the language model.

    Raises:
        ValueError: No training example has a response.
    """
    answered = data.samples.of(task)
    trained = [prompt.example.id for prompt in _part(data, "train").prompts()]
    missing = [example for example in trained if example not in answered]
    if len(missing) == len(trained):
        raise ValueError(
            f"none of the {len(trained)} training instances of {task} has a response: sample them, or set "
            f"augmentation: false. Calibration examples ({data.instances.validation}) are sampled as the part "
            "validation, with as many validation_examples"
        )
    return missing


def set_rows_per_step(data: ScorerDataModule, batch: int, accumulate: int = 1) -> float:
    """Set a datamodule's rows per step so that a step has about `batch` pairs; return the mean pairs in a row.

    A ranking loss needs all responses to an instruction in one row. Rows are lengthened for them, at most to the length
    of a whole batch.

    Args:
        data: Datamodule of the scorer, after ``setup("fit")``; it is set up again.
        batch: Desired number of pairs in a step.
        accumulate: Number of batches in a step; each has equally many rows.
    """
    assert data.plan is not None
    report = data.plan.report()
    if data.plan.groups is not None:
        columns = round(batch / accumulate * report.real_tokens / max(report.draws, 1))
        data.rows = replace(data.rows, length=max(data.rows.length, min(data.plan.groups.longest, columns)))
        data.setup("fit")
        report = data.plan.report()
    pairs_per_row = report.draws / max(report.rows, 1)
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
    rouge: Rouge,
) -> ScorerDataModule:
    """Return the datamodule of the training, with one row per step."""
    data = ScorerDataModule(
        SingleTaskBenchmark(benchmark, task, tested=test_examples > 0),
        training.tokenizer_name,
        prompt=prompt,
        rows=PairRows(
            length=training.row_length,
            pair_length=training.pair_length,
            truncation=training.truncation,
            cut=training.cut,
            per_step=1,
            grouped=training.loss != "regression",
        ),
        instances=Instances(
            train=training.train_examples,
            validation=training.calibration_examples,
            test=max(test_examples, 1),
            held_out_share=None,  # the numbers for which responses were sampled
        ),
        augmentation=Augmentation(
            samples=samples,
            label=ROUGE_L[rouge],
            option_samples=training.option_samples,
            faithful=training.faithful,
        ),
        cache=cache,
        seed=rendering_seed,
    )
    data.prepare_data()
    data.setup("fit")
    return data
