"""The LightningDataModule of instruction tuning: a benchmark's tasks as packed training rows and prompts."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .benchmarks import Benchmark
from .evaluation.evaluation_settings import Evaluation
from .evaluation.loaders import EvaluationLoaders, longest_source
from .evaluation.prompt_stage import PromptStage, read_prompt_stage
from .mixture.proportions import MixtureRules
from .packing.collate import CausalRows, Seq2SeqRows
from .packing.row_settings import Rows, require_epochs
from .rendering.chosen_demonstrations import read_chosen
from .rendering.demonstrations import Demonstrations
from .rendering.prompts import OptImlPrompt, PromptForm
from .rendering.special_tokens import bos_departure
from .rendering.tokenization import load_tokenizer
from .schema import Stage
from .splits import Instances
from .storage.preparation import Preparation
from .stored_training import StoredDataModule
from .stream_changes import flat_settings


class InstructionTuningDataModule(StoredDataModule):
    """LightningDataModule for instruction tuning: packed training rows and evaluation prompts of a benchmark's tasks.

    Training examples are rendered and tokenized once, into a folder on disk, the store. A mixture decides how often
    each task is drawn, and whole tokenized examples share rows. A task that is both trained and tested is tested on
    instances that are never trained.

    Args:
        benchmark: Reader of the benchmark's files, or a path of your own files (``FileTasks``).
        tokenizer: Hub name or folder of the tokenizer; on the command line, empty for that of the model's `pretrained`.
        prompt: How an example becomes a prompt, in training and evaluation.
        rows: Length, number and packing of the training rows.
        mixture: How often each task is drawn.
        instances: How many instances of a task train, validate and test.
        evaluation: How prompts are evaluated.
        demonstrations: Demonstrations in training prompts (MetaICL, arXiv 2110.15943); null for none.
        bos: Whether the tokenizer's bos token begins a document. Null follows the tokenizer, as in the model's
            pre-training.
        cache: Folder of the store.
        processes: Number of processes that prepare tasks that the store lacks; ``crosstask prepare`` does it ahead of
            training.
        epochs: Epochs to train, instead of trainer.max_steps; null for max_steps. An epoch is the mixture's examples,
            with each task counted up to its cap.
        seed: Seed of renderings, choice of instances, mixture and packing.
    """

    rows: Rows

    def __init__(
        self,
        benchmark: Benchmark | str,
        tokenizer: str,
        prompt: PromptForm = OptImlPrompt(),  # noqa: B008 - frozen
        rows: Rows = Rows(),  # noqa: B008 - frozen
        mixture: MixtureRules = MixtureRules(),  # noqa: B008 - frozen
        instances: Instances = Instances(),  # noqa: B008 - frozen
        evaluation: Evaluation = Evaluation(),  # noqa: B008 - frozen
        demonstrations: Demonstrations | None = None,
        bos: bool | None = None,
        cache: str = "~/.cache/crosstask",
        processes: int = 1,
        epochs: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(benchmark, tokenizer, prompt, instances, mixture, cache, processes, seed)
        require_epochs(epochs)
        self.epochs = epochs
        longest_source(rows.length, rows.target_length, evaluation.max_new_tokens)
        self.rows, self.evaluation, self.demonstrations, self.bos = rows, evaluation, demonstrations, bos
        groups = {"rows": rows, "mixture": mixture, "instances": instances, "evaluation": evaluation}
        self._save_arguments(tokenizer=tokenizer, **groups, demonstrations=demonstrations, bos=bos, seed=seed)

    def stream_settings(self) -> dict[str, Any]:
        return super().stream_settings() | flat_settings(demonstrations=self.demonstrations, bos=self.bos)

    @property
    def evaluation_loaders(self) -> EvaluationLoaders:
        """Loaders that turn evaluated examples into batches."""
        return EvaluationLoaders(
            self.preparation, self.packing, self.rows.length, self.rows.target_length, self.evaluation
        )

    @property
    def row_kind(self) -> CausalRows | Seq2SeqRows:
        """Layout of the rows that the model reads, with their length: of a decoder-only or encoder-decoder model."""
        return self.evaluation_loaders.row_kind

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
            folder=self.cache,
            demonstrations=self.demonstrations,
            chosen=read_chosen(self.demonstrations.chosen) if self.demonstrations else {},
        )

    def _read_stage(self, stage: Stage) -> PromptStage:
        trained, loaders, evaluation = self.trained(), self.evaluation_loaders, self.evaluation
        shots = evaluation.shot_numbers, evaluation.shot_separator, loaders.longest_source
        path = self._stage_path(stage, trained, evaluation.ranking, shots, dict(read_chosen(evaluation.chosen)))
        return read_prompt_stage(loaders, stage, self.task_names(), trained, path)
