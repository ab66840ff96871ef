"""The LightningDataModule of the scorer (Cappy): a benchmark's tasks as scored pairs, and responses to rank."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from lightning.pytorch.utilities import rank_zero_info

from .benchmarks import Benchmark, Split
from .evaluation.evaluation_set import read_evaluation
from .instruction_tuning import InstructionTuningDataModule, Stage
from .packing.document_groups import Groups
from .packing.replicas import replicas
from .rendering.prompts import OptImlPrompt, PromptForm
from .rendering.tokenization import load_tokenizer
from .rouge import rouge_l
from .schema import EvaluationExample
from .scoring.instruction_groups import instruction_groups
from .scoring.pair_preparation import ScoredPreparation
from .scoring.pair_rows import ScoredRows, Truncation, pair_frame
from .scoring.pairs import CorrectnessLabel
from .scoring.response_sets import ResponseLoader, ResponseSet, read_responses
from .scoring.samples import ModelSamples
from .storage.store import open_task
from .storage.stored_tasks import StoredTasks


class ScorerDataModule(InstructionTuningDataModule):
    """Scored pairs in packed rows for training, and examples with responses to rank, from one benchmark.

    Tasks, splits, store, mixture and stream are those of instruction tuning; documents are pairs of an instruction and
    a response with its correctness (see ``scored_pairs``), and a step's count is its pairs. Each pair of a task weighs
    the same in the mixture.

    Args:
        benchmark: Reader of the benchmark's files.
        tokenizer: Hub name or folder of the tokenizer.
        prompt: How instructions are rendered, in training and evaluation alike.
        row_length: Columns of a packed row, which holds several pairs.
        pair_length: Most tokens of a pair, special ones included; longer pairs are cut, and counted.
        truncation: What a longer pair loses; instruction keeps the response whole, longest_first is Cappy's way.
        rows_per_step: Rows of one optimizer step over all devices and accumulated batches.
        cap: Most pairs of a task that count towards its mixing rate; all where it is left out.
        grouped: Draw and pack the pairs of an instruction together, as ranking losses need it; on the command line it
            follows from the module's `loss`. Each instruction of a task then weighs the same in the mixture.
        packing: best_fit fills rows, in_order opens a new row for a pair that does not fit, one_per_row pads.
        train_examples: Most training examples of a task, of which each gives several pairs.
        every_prompt: Train on every prompt of a row that has several templates, as Cappy's pretraining does; otherwise
            on as many of them as there are rows, as OPT-IML has it.
        validation_examples: Examples a validation task holds out, or 0; without a list of validation tasks, of every
            training task.
        test_examples: Examples of a test task: the first ones of its file.
        samples: JSONL files of language models' responses, an object with task, id, response and generator a line.
        sample_label: Correctness of such a response, a function of it and the references.
        mismatches: Wrong responses beside the right one at evaluation, where an example has no options.
        faithful: Draw training mismatches as Cappy's released program does, which leaves some examples without one.
        evaluation_tokens: Most tokens of an evaluation batch.
        cache: Folder of the store.
        seed: Decides renderings, mismatches, instances, mixture and packing.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        tokenizer: str,
        prompt: PromptForm = OptImlPrompt(),  # noqa: B008 - frozen
        row_length: int = 2048,
        pair_length: int = 512,
        truncation: Truncation = "instruction",
        rows_per_step: int = 64,
        cap: int | None = None,
        grouped: bool = False,
        packing: Literal["best_fit", "in_order", "one_per_row"] = "best_fit",
        train_examples: int = 500_000,
        every_prompt: bool = False,
        validation_examples: int = 10,
        test_examples: int = 100,
        samples: Sequence[str] = (),
        sample_label: CorrectnessLabel = rouge_l,
        mismatches: int = 4,
        faithful: bool = False,
        evaluation_tokens: int = 32_768,
        cache: str = "~/.cache/crosstask",
        seed: int = 0,
    ) -> None:
        super().__init__(
            benchmark=benchmark,
            tokenizer=tokenizer,
            prompt=prompt,
            row_length=row_length,
            rows_per_step=rows_per_step,
            cap=cap,
            packing=packing,
            train_examples=train_examples,
            validation_examples=validation_examples,
            test_examples=test_examples,
            max_new_tokens=0,
            evaluation_tokens=evaluation_tokens,
            cache=cache,
            seed=seed,
        )
        if mismatches < 1:
            raise ValueError(f"a ranking needs at least 1 mismatch, got mismatches = {mismatches}")
        self.counts = replace(self.counts, every_prompt=every_prompt)
        self.pair_length, self.truncation = pair_length, truncation
        self.samples, self.sample_label, self.faithful = ModelSamples(samples), sample_label, faithful
        self.mismatches, self.grouped = mismatches, grouped
        self._scored_preparation: ScoredPreparation | None = None
        self._ranking: dict[Stage, ResponseSet] = {}

    @property
    def preparation(self) -> ScoredPreparation:
        """What decides how an example becomes pairs; the tokenizer is loaded on first use."""
        if self._scored_preparation is None:
            tokenizer = load_tokenizer(self.tokenizer_name, eos=False)
            self._scored_preparation = ScoredPreparation(
                benchmark=self.benchmark,
                prompt=self.prompt,
                tokenizer=tokenizer,
                pair=False,
                bos=False,
                counts=self.counts,
                folder=self.cache,
                frame=pair_frame(tokenizer),
                samples=self.samples,
                label=self.sample_label,
                faithful=self.faithful,
            )
        return self._scored_preparation

    @property
    def row_kind(self) -> ScoredRows:
        tokenizer = self.preparation.tokenizer
        return ScoredRows(
            self.row_length,
            self.pair_length,
            tokenizer.pad_token_id,
            self.preparation.frame,
            self.truncation,
            keep_end=tokenizer.truncation_side == "left",
        )

    def prepare_data(self) -> None:
        """Pair, label and tokenize the training tasks that the store lacks."""
        self.samples.require_tasks({name for names in self._task_names().values() for name in names})
        super().prepare_data()

    def val_dataloader(self) -> ResponseLoader | list[ResponseLoader]:  # type: ignore[override]
        """Responses of the validation's examples; nothing where none are held out."""
        return self._responses("validation") if self.counts.validation else []

    def test_dataloader(self) -> ResponseLoader:  # type: ignore[override]
        """Responses of the test's examples."""
        return self._responses("test")

    def predict_dataloader(self) -> ResponseLoader:  # type: ignore[override]
        """The responses of the test."""
        return self._responses("test")

    def evaluation_examples(self, stage: Stage) -> Sequence[EvaluationExample]:
        """Everything that is ranked in a stage, by index; call it after ``setup``."""
        return self._ranking[stage].examples

    def _plan_training(self, names: dict[Split, list[str]]) -> None:
        """Leave out tasks none of whose examples has a wrong response, e.g. because all have the same reference."""
        left_out = [name for name in names["train"] if self._has_no_mismatch(name, names)]
        if left_out:
            rank_zero_info(f"{len(left_out)} training tasks have no wrong response: {', '.join(left_out)}")
        super()._plan_training({**names, "train": [name for name in names["train"] if name not in left_out]})

    def _groups(self, stored: StoredTasks) -> Groups | None:
        if not self.grouped:
            return None
        groups = instruction_groups(stored, self.row_kind)
        if groups.cut:
            rank_zero_info(
                f"{groups.cut} instructions do not fit into a row of {self.row_length} columns with all their "
                f"responses, which are compared in parts; row_length = {groups.longest} keeps all together"
            )
        if groups.left_out:
            rank_zero_info(f"{groups.left_out} pairs have no other response of another label to be compared with")
        return groups

    def _has_no_mismatch(self, name: str, names: dict[Split, list[str]]) -> bool:
        stored = open_task(self.preparation.task_folder(name, **self._held_out(name, names)))
        return len(stored) == 0 and bool(stored.skipped)

    def _read_evaluation(self, stage: Stage, names: dict[Split, list[str]]) -> None:
        trained = [self.benchmark.task(name) for name in names["train"]]
        evaluation = read_evaluation(self.preparation, names, stage, trained)
        found = read_responses(evaluation, self.preparation, mismatches=self.mismatches)
        self._ranking[stage] = found
        for reason, count in found.skipped.items():
            rank_zero_info(f"{count} {stage} examples are not ranked: {reason}")

    def _responses(self, stage: Stage) -> ResponseLoader:
        found, kind = self._ranking[stage], self.row_kind
        documents = [self.preparation.tokenize_scored(pairs) for pairs in found.responses]
        lengths = [len(document.input_ids) for pairs in documents for document in pairs]
        if cut := sum(length > self.pair_length for length in lengths):
            rank_zero_info(f"{cut} of {len(lengths)} {stage} pairs are cut to {self.pair_length} tokens")
        return ResponseLoader(
            found.examples,
            [[pair.response for pair in pairs] for pairs in found.responses],
            documents,
            kind=kind,
            packing=self.packing,
            budget=self.evaluation_tokens,
            replicas=replicas(self.trainer),
        )
