"""The LightningDataModule of differentiable instruction optimization (arXiv 2306.10098): inner and outer tasks."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .base import BenchmarkDataModule
from .benchmarks import Benchmark, Split
from .bilevel.bilevel_report import fewer_demonstrations
from .bilevel.bilevel_settings import BilevelRows, InstructionTexts, Levels
from .bilevel.bilevel_stream import BilevelPlan, BilevelStream
from .bilevel.exemplars import ExemplarPools
from .bilevel.few_shot_levels import LevelShots
from .bilevel.level_instances import read_instances
from .bilevel.level_rows import TextSettings
from .bilevel.meta_split import CategorySplit, InnerOuter, MetaSplit, described_split, divided_levels
from .bilevel.presets import Preset, choices
from .evaluation.evaluation_settings import Evaluation
from .evaluation.loaders import EvaluationLoaders, longest_source
from .evaluation.prompt_stage import PromptStage, read_prompt_stage
from .messages import counted, some
from .packing.row_settings import packing_of
from .rendering.prompts import PromptForm, TkInstructPrompt
from .rendering.special_tokens import bos_departure
from .rendering.tokenization import load_tokenizer
from .schema import Stage
from .splits import Instances
from .storage.preparation import Preparation
from .stream_changes import Stream, flat_settings


class InstructionOptimizationDataModule(BenchmarkDataModule):
    """LightningDataModule for differentiable instruction optimization, in which instructions are trained parameters.

    The training tasks are divided into inner and outer ones. Inner tasks train the model behind learnable instructions.
    Outer tasks keep their definitions; their loss trains the instructions. Instances are rendered and tokenized when
    they are drawn, so that there is nothing to prepare. Validation evaluates held-out instances of every training task,
    inner and outer; the test evaluates the benchmark's test tasks. Both use the prompts of the outer instances, since
    learnable instructions exist in training only.

    Args:
        benchmark: Reader of the benchmark's files, or a path of your own files (``FileTasks``).
        tokenizer: Hub name or folder of the tokenizer.
        split: Choice of the outer tasks among the training tasks. Null has no outer tasks, to compare with instructions
            that are not learned.
        prompt: How outer and evaluated instances become prompts. If instructions are extracted exemplars, use one
            positive example, as in the paper.
        preset: Choices where the paper and its released program differ: ``paper``, ``released_code``, or ``fast``,
            which is the paper's without the Hessian. On the command line it also sets the module's `preset`.
        rows: Length of the rows.
        levels: Steps and batches of the model's training (theta) and the instructions' training (phi).
        instructions: Texts that the instructions are computed from.
        instances: How many instances of a task train, validate and test.
        evaluation: How prompts are evaluated.
        bos: Whether the tokenizer's bos token begins a document. Null follows the tokenizer, as in the model's
            pre-training.
        seed: Seed of the choice of instances and exemplars, their order, and renderings.
    """

    rows: BilevelRows
    plan: BilevelPlan | None

    def __init__(
        self,
        benchmark: Benchmark | str,
        tokenizer: str,
        split: MetaSplit | None = CategorySplit(),  # noqa: B008 - frozen
        prompt: PromptForm = TkInstructPrompt(positive_examples=0),  # noqa: B008 - frozen
        preset: Preset = "paper",
        rows: BilevelRows = BilevelRows(),  # noqa: B008 - frozen
        levels: Levels = Levels(),  # noqa: B008 - frozen
        instructions: InstructionTexts = InstructionTexts(),  # noqa: B008 - frozen
        instances: Instances = Instances(train=100),  # noqa: B008 - frozen
        evaluation: Evaluation = Evaluation(max_new_tokens=128),  # noqa: B008 - frozen
        bos: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(benchmark, tokenizer, prompt, instances, seed)
        longest_source(rows.length, rows.target_length, evaluation.max_new_tokens)
        self.choices = choices(
            preset,
            outer_rows=levels.outer_rows,
            reserve=levels.reserve,
            keep_end=levels.keep_end,
            exclude_self=instructions.exclude_self,
            curvature_batch=levels.curvature_batch,
        )
        most = instructions.most_tokens
        self.reserve = most if self.choices.reserve is None else self.choices.reserve
        if not most <= self.reserve < rows.length:
            raise ValueError(
                f"{self.reserve} columns are reserved for the instruction: expected at least its {most} tokens, and "
                f"fewer than rows.length = {rows.length}"
            )
        self.split, self.preset, self.rows, self.levels = split, preset, rows, levels
        self.instructions, self.evaluation, self.bos = instructions, evaluation, bos
        self.task_levels: InnerOuter | None = None
        groups = {"rows": rows, "levels": levels, "instructions": instructions, "instances": instances}
        self._save_arguments(tokenizer=tokenizer, preset=preset, **groups, evaluation=evaluation, bos=bos, seed=seed)

    @property
    def inner_tasks(self) -> list[str]:
        """Names of the inner tasks, in the order of their learnable instructions; after ``setup("fit")``.

        Raises:
            ValueError: ``setup("fit")`` was not called.
        """
        if self.task_levels is None:
            raise ValueError('the tasks are not split yet: call setup("fit") first')
        return self.task_levels.inner

    @property
    def evaluation_loaders(self) -> EvaluationLoaders:
        """Loaders that turn evaluated examples into batches."""
        packing = packing_of(self.rows.packing)
        return EvaluationLoaders(self.preparation, packing, self.rows.length, self.rows.target_length, self.evaluation)

    def stream_settings(self) -> dict[str, Any]:
        chosen = self.choices._asdict()
        of_levels = {name: chosen[name] for name in ("outer_rows", "keep_end", "curvature_batch")}
        of_levels |= {"reserve": self.reserve, "inner_prompt": repr(self.levels.inner_prompt or self.prompt)}
        return super().stream_settings() | flat_settings(
            split=described_split(self.split),
            preset=self.preset,
            levels=asdict(self.levels) | of_levels,
            instructions=asdict(self.instructions) | {"exclude_self": self.choices.exclude_self},
            bos=self.bos,
            **({"outer separator": self.evaluation.shot_separator} if self.instructions.demonstrations else {}),
        )

    def completed_stream(self, saved: Stream, stream: Stream) -> Stream:
        chosen = {"levels": asdict(self.levels), "instructions": {"exclude_self": self.instructions.exclude_self}}
        settings: dict[str, Any] = dict(stream["settings"])  # type: ignore[arg-type]
        of_preset = {name: settings[name] for name, value in flat_settings(**chosen).items() if value is None}
        return super().completed_stream({**saved, "settings": {**of_preset, **saved["settings"]}}, stream)  # type: ignore[dict-item]

    def compare_stream(self, saved: Stream, stream: Stream) -> None:
        """Raise an error if a run resumes on other training batches than those of its checkpoint.

        ``accepts_changed_stream`` allows it, but not other inner tasks, since a learned instruction belongs to one.

        Args:
            saved: Settings and digests that identify the checkpoint's training batches.
            stream: Those of this run.

        Raises:
            ValueError: The inner tasks differ, or the batches differ and ``accepts_changed_stream`` is false.
        """
        old, new = (list(each["tasks"]["inner tasks"]) for each in (saved, stream))  # type: ignore[index]
        if old != new:
            was, now = (each["settings"]["split"] for each in (saved, stream))  # type: ignore[index]
            moved = [*(task for task in old if task not in new), *(task for task in new if task not in old)]
            difference = f"{some(moved)} are inner tasks of only one of the two" if moved else "their order differs"
            raise ValueError(
                f"the checkpoint's instructions are of {len(old)} inner tasks, this run's of {len(new)}: {difference}; "
                f"the split was {was} and is {now}. Set the split back, or start a new run from the weights "
                "(`crosstask export`)"
            )
        super().compare_stream(saved, stream)

    def task_names(self) -> dict[Split, list[str]]:
        """Return the tasks of each split; "validation" has the training tasks."""
        names = super().task_names()
        return {**names, "validation": names["train"]}

    def _prepare_how(self) -> Preparation:
        tokenizer = load_tokenizer(self.tokenizer_name)
        if departure := bos_departure(tokenizer, self.bos):
            rank_zero_info(departure)
        return Preparation(
            self.benchmark,
            self.prompt,
            tokenizer,
            pair=self.rows.target_length is not None,
            bos=self.bos,
            instances=self.instances,
            seed=self.seed,
            folder=Path(),  # nothing is stored
        )

    def _plan_training(self) -> BilevelPlan:
        names = self.task_names()
        if self.split is None:
            self.task_levels = InnerOuter(names["train"], [])
        else:
            self.task_levels = divided_levels(self.split, [self.task(name) for name in names["train"]])
        (inner, inner_skipped), (outer, outer_skipped) = (
            read_instances(self.preparation, level, validated=True, tested=names["test"]) for level in self.task_levels
        )
        if outer and self.choices.outer_rows > (there := sum(len(task.examples) for task in outer)):
            rank_zero_info(
                f"levels.outer_rows = {self.choices.outer_rows} are more than the {counted(there, 'outer instance')}: "
                "an outer batch has some of them several times"
            )
        return BilevelPlan(
            self.preparation,
            inner,
            outer,
            self._texts(),
            inner_steps=self.levels.inner_steps,
            inner_rows=self.levels.inner_rows,
            outer_rows=self.choices.outer_rows,
            fresh=self.choices.curvature_batch == "fresh",
            skipped=Counter(inner_skipped) + Counter(outer_skipped),
        )

    def step_examples(self) -> Callable[[], list[tuple[str, str]]]:
        plan = self._planned()
        assert isinstance(plan, BilevelPlan)
        assert isinstance(self._stream, BilevelStream)
        return partial(plan.examples, self._stream.step - 1)  # the stream counts a batch when it hands it out

    def _texts(self) -> TextSettings:
        texts = self.instructions
        pools = None
        if texts.exemplars:
            exclude_self = self.choices.exclude_self
            pools = ExemplarPools(texts.exemplars, texts.exemplars_of, bool(texts.blank), exclude_self, self.seed)
        return TextSettings(
            prompt=self.prompt,
            inner_prompt=self.levels.inner_prompt or self.prompt,
            rows=self.evaluation_loaders.row_kind,
            reserve=self.reserve,
            keep_end=self.choices.keep_end,
            pair_length=texts.pair_length,
            pair_target=texts.pair_target,
            exemplar_length=texts.length,
            pools=pools,
            numbered=texts.numbered,
            blank_fields=texts.blank == "fields",
            shots=self._shots(),
        )

    def _shots(self) -> LevelShots | None:
        texts = self.instructions
        if not texts.demonstrations:
            return None
        return LevelShots(
            number=texts.demonstrations,
            separator=texts.separator,
            outer_separator=self.evaluation.shot_separator,
            longest=texts.length,
            longest_source=self.evaluation_loaders.longest_source,
        )

    def _read_stage(self, stage: Stage) -> PromptStage:
        names = self.task_names()
        trained = [self.task(name) for name in names["train"]]
        if fewer := fewer_demonstrations(self.prompt, [self.task(name) for name in names[stage]]):
            rank_zero_info(
                f"{len(fewer)} of {len(names[stage])} {stage} tasks have fewer demonstrations than the prompt shows: "
                f"{some(fewer)}"
            )
        return read_prompt_stage(self.evaluation_loaders, stage, names, trained)
