"""The scorer (Cappy, arXiv 2311.06720): an encoder learns how correct a response is, and ranks responses."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..datamodules.hub_names import with_revision
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.tokenization import load_tokenizer
from ..datamodules.rouge import Rouge
from ..datamodules.schema import ScoredBatch, Stage
from ..datamodules.scoring.instruction_truncation import Cut
from ..datamodules.scoring.pair_rows import Truncation
from ..datamodules.scoring.response_sets import ResponseBatch
from .evaluation.aggregation import log_selection
from .evaluation.answers import Answer
from .evaluation.generation_scores import GenerationScores
from .evaluation.metrics import Scores
from .hyperparameters import as_group
from .models import Network, model_config, prepare_network, require_no_balance, require_one_start
from .optimization import Optimization
from .planned_training import PlannedTraining
from .scoring.cross_encoder import CrossEncoder
from .scoring.pair_scores import gather_for_pairs, pair_scores
from .scoring.ranking_metrics import ResponseRanking, ResponseRankingMetric
from .scoring.scorer_losses import ScorerLoss, scorer_losses
from .scoring.scorer_models import build_scorer


class ScorerModule(PlannedTraining):
    """An encoder with a head of one output, trained to score the correctness of responses or to rank them.

    The loss of an optimizer step is the mean over all of its pairs (for a ranking loss: over its instructions), for any
    number of devices, rows and accumulated batches. Evaluation scores the responses of every example; its answer is the
    response with the highest score.

    Args:
        tokenizer: Hub name or folder of the tokenizer. On the command line it is set from the datamodule's `tokenizer`;
            in Python give both the same.
        pretrained: Hub name or folder of the weights to start from: an encoder such as roberta-base, or a scorer. Give
            either this or `config`.
        revision: Branch, tag or commit of `pretrained` on the hub. NAME@REVISION as a name is the same, also for
            `tokenizer`.
        config: Start from random weights: hub name or folder of a configuration, or its fields, with model_type among
            them.
        network: Dropout, recomputation and parameter type of the model. Its attention must stay document; an encoder
            that cannot be packed reads padded pairs.
        optimizer: Settings of the optimizer and its schedule. Cappy uses a learning rate of 1e-6 for pretraining and
            2e-5 for adaptation to a task.
        loss: regression is Cappy's squared error on the label. pairwise (Bradley-Terry, as for reward models) and
            listwise (ListNet) learn the order of the responses to an instruction; they need the datamodule's
            `rows.grouped`, which the command line sets.
        label_temperature: Temperature of the labels' softmax in the listwise loss: a response whose label is higher by
            this much has e times the target probability. ListNet has 1.
        row_length: Columns (tokens) of a packed row. On the command line it is set from the datamodule's `rows.length`.
        total_steps: Optimizer steps of the whole training, which the schedule needs; -1 takes trainer.max_steps.
        rouge: Implementation of ROUGE-L. rouge_score is Google's package; exact gives equal numbers and is many times
            faster. Both drop all characters but a to z and digits. unicode keeps all scripts.
        seed: Seed of dropout.
    """

    def __init__(
        self,
        tokenizer: str,
        pretrained: str | None = None,
        revision: str | None = None,
        config: str | dict[str, Any] | None = None,
        network: Network = Network(),  # noqa: B008 - frozen
        optimizer: Optimization = Optimization(learning_rate=2e-5, warmup=0.1),  # noqa: B008 - frozen
        loss: ScorerLoss = "regression",
        label_temperature: float = 1.0,
        row_length: int = 2048,
        total_steps: int = -1,
        rouge: Rouge = "exact",
        seed: int = 0,
    ) -> None:
        super().__init__()
        pretrained, revision = with_revision(pretrained, revision), None
        self.keep_arguments(locals())
        require_one_start(pretrained, config)
        require_positive("rows", length=row_length)  # the option that it is linked to
        if not 0 < label_temperature < math.inf:
            raise ValueError(f"label_temperature must be positive, got {label_temperature}")
        self.network, self.optimization = as_group(Network, network), as_group(Optimization, optimizer)
        if isinstance(config, dict):  # rejects fields that no model is built of, before data is prepared
            model_config(config, vocabulary=1000, dropout=self.network.dropout)  # of any size
        require_no_balance(self.network)
        if self.network.attention != "document":
            raise ValueError(
                f"a scorer chooses its attention by its encoder, got network.attention = {self.network.attention!r}: "
                "leave it out"
            )
        self.loss, self.label_temperature = loss, label_temperature
        self.tokenizer_name, self.pretrained, self.config = tokenizer, pretrained, config
        self.row_length, self.total_steps, self.seed = row_length, total_steps, seed
        self.rouge = rouge
        self.model: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.scores: Scores | None = None
        self.ranking: ResponseRanking | None = None
        self.answer_scores, self.ranking_scores = GenerationScores(), ResponseRankingMetric()
        self.evaluation_loss = MeanMetric()

    def configure_model(self) -> None:
        """Build tokenizer and model; a second call does nothing."""
        if self.model is not None:
            return
        self.tokenizer = load_tokenizer(self.tokenizer_name, eos=False)
        vocabulary, pad = len(self.tokenizer), self.tokenizer.pad_token_id
        source: str | dict[str, Any] = self.pretrained or self.config or {}
        if isinstance(source, dict):
            source = {"pad_token_id": pad, **source}  # RoBERTa's positions start after the padding's id
        config = model_config(source, vocabulary=vocabulary, dropout=self.network.dropout)
        model = self.built(partial(self._build, config, vocabulary), self.pretrained)
        prepare_network(model, self.network)
        gather_for_pairs(model)
        # from_pretrained returns a model in evaluation mode, and Lightning keeps modes: dropout would be off.
        self.model = model.train()

    def _build(self, config: PreTrainedConfig, vocabulary: int, weights: str | None) -> PreTrainedModel:
        """Return the whole model, with the given weights or, for None, random ones."""
        model = build_scorer(config, weights=weights, dtype=self.network.torch_dtype)
        embeddings: Any = model.get_input_embeddings()
        if vocabulary > embeddings.num_embeddings:
            model.resize_token_embeddings(vocabulary)
        return model

    @property
    def scorer(self) -> PreTrainedModel:
        """The model of transformers.

        Raises:
            RuntimeError: ``configure_model`` has not been called.
        """
        if self.model is None:
            raise RuntimeError("the model is not built yet: call configure_model() first")
        return self.model

    def cross_encoder(
        self,
        *,
        max_length: int | None = None,
        truncation: Truncation = "instruction",
        cut: Cut = "middle",
        chat: bool = False,
    ) -> CrossEncoder:
        """Return the model and its tokenizer as a ``CrossEncoder``, which scores pairs of texts without Lightning.

        Args:
            max_length: Largest number of tokens of an (instruction, response) pair; None for 512, or for all positions
                of a model that has fewer.
            truncation: Which text of a longer pair is truncated.
            cut: Which tokens a long instruction loses.
            chat: Whether pairs are in the tokenizer's chat template, as those that ``ChatPrompt`` trains on.
        """
        model, tokenizer = self.scorer, self.tokenizer
        assert tokenizer is not None
        return CrossEncoder(model, tokenizer, max_length=max_length, truncation=truncation, cut=cut, chat=chat)

    def training_step(self, batch: ScoredBatch, batch_idx: int) -> Tensor:
        """Return this batch's part of the mean loss over all pairs, or all instructions, of the optimizer step."""
        [loss] = self.batch_losses(batch).values()
        return self.step_part(loss, batch_idx)

    def batch_losses(self, batch: ScoredBatch) -> dict[str, Tensor]:
        losses = self._losses(pair_scores(self.scorer, batch), batch.labels, batch.groups)
        return {"loss": losses.sum() / max(batch.step_count, 1)}

    def _losses(self, scores: Tensor, labels: Tensor, groups: Sequence[int]) -> Tensor:
        return scorer_losses(self.loss, scores, labels, groups, label_temperature=self.label_temperature)

    def validation_step(self, batch: ResponseBatch, batch_idx: int) -> list[Answer]:  # type: ignore[override]
        return self._evaluate(batch)

    def test_step(self, batch: ResponseBatch, batch_idx: int) -> list[Answer]:  # type: ignore[override]
        return self._evaluate(batch)

    def predict_step(self, batch: ResponseBatch, batch_idx: int) -> list[Answer]:
        return self._answers(batch, pair_scores(self.scorer, batch.pairs))

    def _evaluate(self, batch: ResponseBatch) -> list[Answer]:
        """Score the responses of a batch, answer with the best ones, and add both to the metrics."""
        scores = pair_scores(self.scorer, batch.pairs)
        places = batch.places.to(scores.device)
        groups = [] if self.loss == "regression" else [len(responses) for responses in batch.responses]
        losses = self._losses(scores[places], batch.pairs.labels[places], groups)
        self.evaluation_loss.update(losses.sum() / max(len(losses), 1), weight=len(losses))
        self.ranking_scores.update(
            [example.number for example in batch.examples],
            _by_example(batch, scores),
            _by_example(batch, batch.pairs.labels),
        )
        answers = self._answers(batch, scores)
        self.answer_scores.update(answers)
        return answers

    def _answers(self, batch: ResponseBatch, scores: Tensor) -> list[Answer]:
        """Return the response with the highest score for each example; the first of equal ones."""
        best = [int(of_example.argmax()) for of_example in _by_example(batch, scores)]
        chosen = zip(batch.examples, batch.responses, best, strict=True)
        return [Answer.of(example, responses[place], self.rouge) for example, responses, place in chosen]

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("validation")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: Stage) -> None:
        self.scores, self.ranking = self.answer_scores.compute(), self.ranking_scores.compute()
        self.answer_scores.reset()
        self.ranking_scores.reset()
        self.log(f"{stage}/loss", self.evaluation_loss.compute(), prog_bar=True)
        self.evaluation_loss.reset()
        self.log(f"{stage}/ranking_accuracy", self.ranking.accuracy.mean(), prog_bar=True)
        self.log(f"{stage}/rouge_l", self.scores.rouge_l.mean())
        self.log(f"{stage}/exact_match", self.scores.exact_match.mean())
        log_selection(self, stage, self.scores)
        graded = ~np.isnan(self.ranking.spearman)
        if graded.any():
            self.log(f"{stage}/spearman", self.ranking.spearman[graded].mean())
            self.log(f"{stage}/regret", self.ranking.regret[graded].mean())


def _by_example(batch: ResponseBatch, values: Tensor) -> list[Tensor]:
    """Split values [C] of the scored pairs by example, in the order of its responses, on the CPU."""
    return list(values.cpu()[batch.places.cpu()].split([len(responses) for responses in batch.responses]))
