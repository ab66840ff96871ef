"""The LightningDataModule of differentiable instruction optimization: training tasks at two levels."""

from typing import Literal

from .benchmarks import Benchmark, Split
from .bilevel.bilevel_stream import BilevelPlan, BilevelStream, TextSettings, read_instances
from .bilevel.exemplars import ExemplarPools
from .bilevel.meta_split import CategorySplit, InnerOuter, MetaSplit
from .bilevel.presets import Preset, choices
from .instruction_tuning import InstructionTuningDataModule
from .packing.replicas import replicas
from .rendering.prompts import PromptForm, TkInstructPrompt


class InstructionOptimizationDataModule(InstructionTuningDataModule):
    """Inner tasks with what their learnable instructions are made from, and outer tasks as people instruct them.

    Instances are rendered and tokenized as they are drawn, so there is nothing to prepare. Validation asks held-out
    instances of every training task, inner and outer; the test asks the benchmark's test tasks. Both read the prompts
    of the outer instances, since learnable instructions exist in training alone.

    Args:
        benchmark: Reader of the benchmark's files.
        tokenizer: Hub name or folder of the tokenizer.
        split: Which training tasks are outer ones; null for none, to compare with instructions that nobody learns.
        prompt: How outer and evaluated instances are rendered; with one positive example for an extractor.
        inner_prompt: How inner instances are rendered behind the learnable instruction; as the outer ones where it is
            left out. TkInstructPrompt with definition false puts it in the instruction's place.
        preset: Where the paper and its released program differ, whose choice is followed; linked to the module's.
        row_length: Most tokens a row holds, instruction and answer included; for an encoder-decoder model, of the
            encoder.
        target_length: Most target tokens for an encoder-decoder model; leave it out for a decoder-only model.
        inner_steps: Theta steps for one step of phi, K; linked to the module's.
        inner_rows: Instances of one theta step, over all devices.
        outer_rows: Instances of an outer batch, over all devices, in place of the preset's 8.
        instruction_length: Tokens of an embedder's instruction, and most tokens of an exemplar; linked to the module's.
        exemplars: Exemplars an extractor chooses among, N, or 0 for an embedder; linked to the module's.
        exemplars_of: Whether the instances of a task share their exemplars or each instance has its own.
        blank_exemplars: Leave only the last exemplar an exemplar and make the others blank.
        pair_length: Longest text z of an instance in tokens, input and target together.
        pair_target: Whether z shows the target, as in the paper's Eq. 4.
        reserve: Columns that the text leaves free, in place of the preset's.
        keep_end: Whether long sources keep their end rather than their beginning, in place of the preset's choice.
        exclude_self: Whether an instance is kept from being its own exemplar, in place of the preset's choice.
        curvature_batch: The hypergradient's inner batch, in place of the preset's: a fresh one, or that of the
            theta step beside it.
        train_examples: Most training instances of a task.
        validation_examples: Instances a training task holds out, or 0.
        test_examples: Instances of a test task: the first ones of its file.
        max_new_tokens: Longest answer at evaluation.
        evaluation_tokens: Most tokens of an evaluation batch, answers included.
        evaluation_packing: How documents share the rows of the validation loss; one_per_row for models that cannot
            be packed.
        bos: Whether a decoder-only document begins with the tokenizer's bos token.
        seed: Decides instances, order, exemplars and renderings.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        tokenizer: str,
        split: MetaSplit | None = CategorySplit(),  # noqa: B008 - frozen
        prompt: PromptForm = TkInstructPrompt(positive_examples=0),  # noqa: B008 - frozen
        inner_prompt: PromptForm | None = None,
        preset: Preset = "paper",
        row_length: int = 1024,
        target_length: int | None = None,
        inner_steps: int = 20,
        inner_rows: int = 2,
        outer_rows: int | None = None,
        instruction_length: int = 64,
        exemplars: int = 0,
        exemplars_of: Literal["task", "instance"] = "task",
        blank_exemplars: bool = False,
        pair_length: int = 128,
        pair_target: bool = True,
        reserve: int | None = None,
        keep_end: bool | None = None,
        exclude_self: bool | None = None,
        curvature_batch: Literal["fresh", "step"] | None = None,
        train_examples: int = 100,
        validation_examples: int = 10,
        test_examples: int = 100,
        max_new_tokens: int = 128,
        evaluation_tokens: int = 32_768,
        evaluation_packing: Literal["best_fit", "in_order", "one_per_row"] = "best_fit",
        bos: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            benchmark,
            tokenizer,
            prompt=prompt,
            row_length=row_length,
            target_length=target_length,
            packing=evaluation_packing,
            train_examples=train_examples,
            validation_examples=validation_examples,
            test_examples=test_examples,
            max_new_tokens=max_new_tokens,
            evaluation_tokens=evaluation_tokens,
            bos=bos,
            seed=seed,
        )
        for name, value in (("inner_steps", inner_steps), ("inner_rows", inner_rows)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.choices = choices(
            preset,
            outer_rows=outer_rows,
            reserve=reserve,
            keep_end=keep_end,
            exclude_self=exclude_self,
            curvature_batch=curvature_batch,
        )
        if self.choices.outer_rows < 1:
            raise ValueError(f"outer_rows must be at least 1, got {outer_rows}")
        self.reserve = instruction_length if self.choices.reserve is None else self.choices.reserve
        if not instruction_length <= self.reserve < row_length:
            raise ValueError(
                f"the {self.reserve} columns that the text leaves free must hold the instruction of "
                f"{instruction_length} tokens and be fewer than row_length = {row_length}"
            )
        self.split, self.inner_prompt, self.preset = split, inner_prompt or prompt, preset
        self.inner_steps, self.inner_rows, self.instruction_length = inner_steps, inner_rows, instruction_length
        self.pair_length, self.pair_target, self.exemplars = pair_length, pair_target, exemplars
        self.pools = (
            ExemplarPools(exemplars, exemplars_of, blank_exemplars, self.choices.exclude_self, seed)
            if exemplars
            else None
        )
        self.levels: InnerOuter | None = None
        self.bilevel_plan: BilevelPlan | None = None

    @property
    def inner_tasks(self) -> list[str]:
        """Names of the inner tasks, by their places in a table of instructions; call it after ``setup("fit")``."""
        if self.levels is None:
            raise ValueError('the tasks are not split yet: call setup("fit") first')
        return self.levels.inner

    def prepare_data(self) -> None:
        """Nothing: instances are tokenized as they are drawn."""

    def train_dataloader(self) -> BilevelStream:  # type: ignore[override]
        """This replica's batches of both levels, one for every theta step of the trainer's ``max_steps``."""
        if self.bilevel_plan is None:
            raise ValueError('there is no training plan yet: call setup("fit") first')
        return BilevelStream(self.bilevel_plan, replicas(self.trainer), self._requested_steps())

    def _task_names(self) -> dict[Split, list[str]]:
        names = super()._task_names()
        return {**names, "validation": names["train"]}

    def _plan_training(self, names: dict[Split, list[str]]) -> None:
        if self.split is None:
            self.levels = InnerOuter(names["train"], [])
        else:
            self.levels = self.split([self.benchmark.task(name) for name in names["train"]])
        inner, outer = (
            read_instances(self.preparation, level, validated=True, tested=names["test"]) for level in self.levels
        )
        text = TextSettings(
            prompt=self.prompt,
            inner_prompt=self.inner_prompt,
            rows=self.row_kind,  # type: ignore[arg-type]
            reserve=self.reserve,
            keep_end=self.choices.keep_end,
            pair_length=self.pair_length,
            pair_target=self.pair_target,
            exemplar_length=self.instruction_length,
            pools=self.pools,
        )
        self.bilevel_plan = BilevelPlan(
            self.preparation,
            inner,
            outer,
            text,
            inner_steps=self.inner_steps,
            inner_rows=self.inner_rows,
            outer_rows=self.choices.outer_rows,
            fresh=self.choices.curvature_batch == "fresh",
        )

    def _requested_steps(self) -> int:
        """The trainer's ``max_steps``; an epoch over the inner instances without a trainer."""
        assert self.bilevel_plan is not None
        epoch = -(-sum(len(examples) for _, examples in self.bilevel_plan.inner) // self.inner_rows)
        if self.trainer is None:
            return epoch
        if self.levels is not None and self.levels.outer and self.trainer.max_steps < self.inner_steps:
            raise ValueError(
                f"the length of training is counted in theta steps: set trainer.max_steps to at least inner_steps = "
                f"{self.inner_steps}, since phi moves once in so many (an epoch has {epoch} steps), got "
                f"{self.trainer.max_steps}"
            )
        return self.trainer.max_steps
