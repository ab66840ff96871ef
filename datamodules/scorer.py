"""The LightningDataModule of the scorer (Cappy, arXiv 2311.06720): scored pairs to train on, and responses to rank."""

from dataclasses import replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .benchmarks import Benchmark
from .evaluation.evaluation_set import read_evaluation
from .messages import counted
from .mixture.proportions import MixtureRules
from .packing.document_groups import Groups
from .packing.row_settings import require_epochs
from .rendering.prompts import ChatPrompt, OptImlPrompt, PromptForm
from .rendering.tokenization import load_tokenizer
from .schema import Stage
from .scoring.instruction_groups import instruction_groups
from .scoring.instruction_truncation import instruction_cut
from .scoring.pair_preparation import ScoredPreparation
from .scoring.pair_rows import ScoredRows, chat_frame, pair_frame
from .scoring.response_sets import ResponseStage, read_responses
from .scoring.samples import ModelSamples
from .scoring.scorer_settings import Augmentation, PairRows, ResponseEvaluation, pair_truncation
from .splits import Instances
from .storage.stored_tasks import StoredTasks
from .stored_training import StoredDataModule
from .stream_changes import flat_settings


class ScorerDataModule(StoredDataModule):
    """LightningDataModule for a scorer such as Cappy, which learns how correct a response to an instruction is.

    It packs pairs of an instruction and a response, labelled with a correctness in [0, 1], into training rows; a step's
    loss is a mean over its pairs. All pairs of a task have the same rate in the mixture. Evaluation examples have
    several responses each, which the scorer ranks.

    Args:
        benchmark: Reader of the benchmark's files, or a path of your own files (``FileTasks``).
        tokenizer: Hub name or folder of the tokenizer.
        prompt: How an example becomes an instruction, in training and evaluation. ChatPrompt reads pairs in the
            tokenizer's chat template, as reward models of chat models do.
        rows: Length, number and packing of the training rows.
        mixture: How often each task is drawn; its sizes are numbers of pairs, or of instructions if pairs are grouped.
        instances: How many instances of a task train, validate and test; a training instance gives several pairs.
        augmentation: Training responses beside the references.
        evaluation: How responses are ranked.
        cache: Folder of the store.
        processes: Number of processes that prepare tasks that the store lacks.
        epochs: Epochs to train, instead of trainer.max_steps; null for max_steps. An epoch is the mixture's examples,
            with each task counted up to its cap.
        seed: Seed of renderings, mismatched responses, choice of instances, mixture and packing.
    """

    rows: PairRows
    reads_only_the_benchmark = False  # files of samples are read, too

    def __init__(
        self,
        benchmark: Benchmark | str,
        tokenizer: str,
        prompt: PromptForm = OptImlPrompt(),  # noqa: B008 - frozen
        rows: PairRows = PairRows(),  # noqa: B008 - frozen
        mixture: MixtureRules = MixtureRules(),  # noqa: B008 - frozen
        instances: Instances = Instances(train=500_000, held_out_share=None),  # noqa: B008 - frozen
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - frozen
        evaluation: ResponseEvaluation = ResponseEvaluation(),  # noqa: B008 - frozen
        cache: str = "~/.cache/crosstask",
        processes: int = 1,
        epochs: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(benchmark, tokenizer, prompt, instances, mixture, cache, processes, seed)
        require_epochs(epochs)
        self.epochs = epochs
        self.augmentation, self.evaluation = augmentation, evaluation
        self.rows = replace(rows, truncation=pair_truncation(rows.truncation, faithful=augmentation.faithful))
        self.samples = ModelSamples(augmentation.samples)
        groups = {"rows": rows, "mixture": mixture, "instances": instances, "evaluation": evaluation}
        self._save_arguments(tokenizer=tokenizer, **groups, augmentation=augmentation, seed=seed)

    @property
    def preparation(self) -> ScoredPreparation:
        """Settings that decide how examples become tokenized pairs; the tokenizer is loaded on first use."""
        preparation = super().preparation
        assert isinstance(preparation, ScoredPreparation)
        return preparation

    @property
    def row_kind(self) -> ScoredRows:
        """Layout of packed rows of (instruction, response) pairs, with their length and the truncation of pairs."""
        tokenizer = self.preparation.tokenizer
        assert self.rows.truncation is not None  # chosen in __init__
        return ScoredRows(
            self.rows.length,
            self.rows.pair_length,
            tokenizer.pad_token_id,
            self.preparation.frame,
            self.rows.truncation,
            part=instruction_cut(self.rows.cut, faithful=self.augmentation.faithful),
        )

    def stream_settings(self) -> dict[str, Any]:
        settings = {"faithful": self.augmentation.faithful, "option_samples": self.augmentation.option_samples}
        return super().stream_settings() | flat_settings(augmentation=settings)

    def prepare_data(self) -> None:
        """Pair, label and tokenize the training tasks that the store lacks, in `processes` processes."""
        self.samples.require_tasks({name for names in self.task_names().values() for name in names})
        super().prepare_data()

    def _prepare_how(self) -> ScoredPreparation:
        tokenizer = load_tokenizer(self.tokenizer_name, eos=False)
        frame = chat_frame if isinstance(self.prompt, ChatPrompt) else pair_frame
        return ScoredPreparation(
            benchmark=self.benchmark,
            prompt=self.prompt,
            tokenizer=tokenizer,
            pair=False,
            bos=False,
            instances=self.instances,
            seed=self.seed,
            folder=self.cache,
            frame=frame(tokenizer),
            samples=self.samples,
            label=self.augmentation.label,
            option_samples=self.augmentation.option_samples,
            faithful=self.augmentation.faithful,
        )

    def _groups(self, stored: StoredTasks) -> Groups | None:
        """Return the pairs of each instruction, which ranking losses compare; None if single pairs are drawn."""
        if not self.rows.grouped:
            return None
        groups = instruction_groups(stored, self.row_kind)
        if groups.cut:
            rank_zero_info(
                f"{counted(groups.cut, 'instruction does', 'instructions do')} not fit into a row of "
                f"{self.rows.length} columns with all responses, which are compared in parts; rows.length = "
                f"{groups.longest} keeps all together"
            )
        if groups.left_out:
            rank_zero_info(
                f"{counted(groups.left_out, 'pair has', 'pairs have')} no response of another label to be compared with"
            )
        return groups

    def _read_stage(self, stage: Stage) -> ResponseStage:
        prompts = read_evaluation(self.preparation, self.task_names(), stage, self.trained())
        responses = read_responses(prompts, self.preparation, mismatches=self.evaluation.mismatches)
        tokens = self.evaluation.batch_tokens
        return ResponseStage(stage, responses, self.preparation, self.row_kind, self.packing, tokens)
