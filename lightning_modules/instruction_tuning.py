"""Instruction tuning (OPT-IML, arXiv 2212.12017): a language model is trained on the targets of packed prompts."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..datamodules.evaluation.option_batches import CausalOptionBatch, OptionBatch, Seq2SeqOptionBatch
from ..datamodules.hub_names import with_revision
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.tokenization import load_tokenizer
from ..datamodules.rouge import Rouge
from ..datamodules.schema import CausalBatch, PromptBatch, Seq2SeqBatch, Stage
from .adapters import (
    LoRA,
    add_adapters,
    describe_adapters,
    holds_whole_weights,
    reject_adapters,
    require_same_base,
    start_adapters,
)
from .attention.document_attention import IMPLEMENTATIONS
from .attention.isolation_checks import require_document_attention
from .chunked_head import ChunkedHead, has_plain_head
from .evaluation.aggregation import log_selection
from .evaluation.answers import Answer
from .evaluation.generation_scores import GenerationScores
from .evaluation.likelihood import score_option_batch
from .evaluation.metrics import Scores
from .evaluation.option_scores import Score, score_of
from .evaluation.weights_digest import weights_digest
from .expert_balance import balance_losses
from .generation.decoding import Decoding, prompt_seed
from .generation.generate import answer_batch, require_compilable
from .generation.generation_settings import end_tokens, set_generation_settings
from .hyperparameters import as_group
from .models import Network, build_model, model_config, prepare_network, require_one_start, require_positions
from .optimization import Optimization
from .planned_training import PlannedTraining
from .prefixes import Prefix, add_prefix
from .sharding.checkpoints import KEY
from .target_loss import target_loss
from .untrained_adapters import require_trained

Batch = CausalBatch | Seq2SeqBatch
EvaluationBatch = PromptBatch | CausalOptionBatch | Seq2SeqOptionBatch


class InstructionTuningModule(PlannedTraining):
    """A causal or encoder-decoder language model, trained on the target tokens of packed rows.

    The loss of an optimizer step is the mean over all of its target tokens, for any number of devices, rows and
    accumulated batches. Evaluation generates an answer to every prompt, or ranks the options of an example if the
    datamodule provides them, and scores ROUGE-L, exact match, token F1 and accuracy.

    Args:
        tokenizer: Hub name or folder of the tokenizer. On the command line it is set from the datamodule's `tokenizer`;
            in Python give both the same.
        pretrained: Hub name or folder of the weights to start from. Give either this or `config`.
        revision: Branch, tag or commit of `pretrained` on the hub. NAME@REVISION as a name is the same, also for
            `tokenizer`.
        config: Start from random weights: hub name or folder of a configuration, or its fields, with model_type among
            them.
        network: Attention, dropout, recomputation and parameter type of the model.
        optimizer: Settings of the optimizer and its learning rate schedule.
        row_length: Columns (tokens) of a packed row. On the command line it is set from the datamodule's `rows.length`.
            It is compared with the model's number of positions.
        total_steps: Optimizer steps of the whole training, which the schedule needs; -1 takes trainer.max_steps.
        lora: Train low-rank adapters beside the frozen weights of `pretrained`, instead of all weights.
        prefix: Train virtual tokens before every layer of the frozen `pretrained` (prefix tuning), instead of all
            weights. It needs one device or ddp, network.attention sdpa and rows.packing one_per_row.
        decoding: How answers are generated in evaluation; greedily by default. If it generates several answers, the
            first is scored.
        score: How options are compared where the datamodule ranks them: sum (log-likelihood), token_mean or byte_mean
            (its mean over tokens or bytes), or pmi (pointwise mutual information with the prompt, which needs the
            datamodule's unconditional prompt). A mapping from patterns of task names to these values chooses by task,
            as GPT-3 does; the first match counts.
        rouge: Implementation of ROUGE-L. rouge_score is Google's package; exact gives equal numbers and is many times
            faster. Both drop all characters but a to z and digits. unicode keeps all scripts.
        seed: Seed of dropout and of sampled answers.
    """

    def __init__(
        self,
        tokenizer: str,
        pretrained: str | None = None,
        revision: str | None = None,
        config: str | dict[str, Any] | None = None,
        network: Network = Network(),  # noqa: B008 - frozen
        optimizer: Optimization = Optimization(learning_rate=5e-5, warmup=0.015, betas=(0.9, 0.95)),  # noqa: B008 - frozen
        row_length: int = 2048,
        total_steps: int = -1,
        lora: LoRA | None = None,
        prefix: Prefix | None = None,
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
        score: Score | dict[str, Score] = "sum",
        rouge: Rouge = "exact",
        seed: int = 0,
    ) -> None:
        super().__init__()
        pretrained, revision = with_revision(pretrained, revision), None
        self.keep_arguments(locals())
        require_one_start(pretrained, config)
        self.lora, self.prefix = as_group(LoRA, lora), as_group(Prefix, prefix)
        self.adapters: LoRA | Prefix | None = self.lora or self.prefix
        """Adapters that are trained beside frozen weights; None where all weights are trained."""
        if self.lora is not None and self.prefix is not None:
            raise ValueError("give either lora or a prefix: a checkpoint holds one of them")
        if self.adapters is not None and pretrained is None:
            kind = "lora trains adapters" if self.lora is not None else "a prefix is trained"
            raise ValueError(f"{kind} beside the weights of `pretrained`; random ones are not worth keeping")
        self.tokenizer_name, self.pretrained, self.config = tokenizer, pretrained, config
        self.network, self.optimization = as_group(Network, network), as_group(Optimization, optimizer)
        require_positive("rows", length=row_length)  # the option that it is linked to
        if isinstance(config, dict):  # rejects fields of no model before data is prepared; the vocabulary is open yet
            model_config(config, vocabulary=2**17, dropout=self.network.dropout)
        self.row_length, self.total_steps, self.seed = row_length, total_steps, seed
        self.decoding, self.score = replace(as_group(Decoding, decoding), samples=1), score
        self.rouge = rouge
        self.model: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self._head: ChunkedHead | None = None
        self._adapters_described: dict[str, Any] | None = None
        self._adapters_train = False
        self.scores: Scores | None = None
        self.generation_scores = GenerationScores()
        self.evaluation_loss = MeanMetric()

    def setup(self, stage: str) -> None:
        """Reject strategies that cannot train adapters or a prefix, before a model is built."""
        if self.adapters is not None:
            reject_adapters(self.adapters, self.trainer.strategy)
            if not holds_whole_weights(self.trainer.strategy) or (self.lora is not None and self.lora.bits):
                self.strict_loading = False  # frozen weights, which checkpoints omit, are not loaded a second time
            if isinstance(self.trainer.strategy, DeepSpeedStrategy):
                self.trainer.strategy.exclude_frozen_parameters = True
        super().setup(stage)

    def configure_model(self) -> None:
        """Build tokenizer and model; a second call does nothing.

        Raises:
            ValueError: The weights do not fit the settings, e.g. a prefix with recomputed blocks, which would drop it.
        """
        if self.model is not None:
            return
        self.tokenizer = load_tokenizer(self.tokenizer_name)
        vocabulary = len(self.tokenizer)
        config = model_config(self.pretrained or self.config or {}, vocabulary=vocabulary, dropout=self.network.dropout)
        require_positions(config, self.row_length + (self.prefix.virtual_tokens if self.prefix else 0))
        if self.prefix is not None and self.network.gradient_checkpointing:
            raise ValueError("recomputed blocks drop the prefix: set network.gradient_checkpointing to false")
        add = None if self.adapters is None else self._add_adapters
        model = self.built(partial(self._build, config, vocabulary), self.pretrained, add)
        if self.lora is not None:
            start_adapters(model, self.seed)
        set_generation_settings(model, self.tokenizer, self.pretrained)
        prepare_network(model, self.network)
        # from_pretrained returns a model in evaluation mode, and Lightning keeps modes: dropout would be off.
        self.model = model.train()
        require_compilable(self.model, self.decoding.compile, share=not self.gathers_weights)
        if self.network.logits == "chunked" and has_plain_head(model):
            self._head = ChunkedHead(model)

    def _build(self, config: PreTrainedConfig, vocabulary: int, weights: str | None) -> PreTrainedModel:
        """Return the whole model, with the given weights or, for None, random ones."""
        model = build_model(
            config,
            weights=weights,
            vocabulary=vocabulary,
            attention=self.network.attention,
            dtype=self.network.torch_dtype,
        )
        if self.packed:
            require_document_attention(model)
        if self.lora is not None and vocabulary > config.vocab_size:
            raise ValueError(
                f"the tokenizer has {vocabulary} tokens and {self.pretrained} {config.vocab_size}: lora freezes "
                "the embeddings, so that new ones would never be learned"
            )
        return model

    def _add_adapters(self, model: PreTrainedModel) -> None:
        if self.lora is not None:
            add_adapters(model, self.lora)
        if self.prefix is not None:
            assert self.tokenizer is not None
            add_prefix(model, self.prefix, self.tokenizer)

    @property
    def packed(self) -> bool:
        """Whether the model's attention keeps the documents of a row apart."""
        return self.network.attention in IMPLEMENTATIONS

    @property
    def language_model(self) -> PreTrainedModel:
        """The model of transformers.

        Raises:
            RuntimeError: ``configure_model`` has not been called.
        """
        if self.model is None:
            raise RuntimeError("the model is not built yet: call configure_model() first")
        return self.model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.adapters is not None:
            assert self.pretrained is not None
            if self._adapters_described is None:  # the digest reads all frozen weights, which do not change
                self._adapters_described = describe_adapters(self.language_model, self.adapters, self.pretrained)
            checkpoint[KEY]["adapters"] = dict(self._adapters_described)
            frozen = self._frozen()
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}
            # The frozen weights are not in the checkpoint: they are read from `pretrained` again.
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] |= {"pretrained": self.pretrained, "config": None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        described = checkpoint.get(KEY, {}).get("adapters")
        if (described is None) != (self.adapters is None):
            content = "all weights and no adapters" if described is None else "only adapters"
            raise ValueError(
                f"the checkpoint holds {content}, and the model has lora = {self.lora}, prefix = {self.prefix}"
            )
        if described is not None and self.adapters is not None:
            require_same_base(self.language_model, self.adapters, described, "the checkpoint")
            if "state_dict" in checkpoint and self.strict_loading:
                checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._frozen()}

    def _frozen(self) -> dict[str, Tensor]:
        """Return the frozen parts of the module's state, which a checkpoint of adapters omits."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name not in trained}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return this batch's part of the mean loss over all target tokens of the optimizer step."""
        [loss] = self.batch_losses(batch).values()
        return self.step_part(loss, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Reject adapters that the loss does not depend on, at the first step."""
        if not isinstance(self.trainer.strategy, DeepSpeedStrategy):  # it keeps gradients elsewhere
            trained = [value for value in self.language_model.parameters() if value.requires_grad]
            self._require_trained_adapters([value.grad for value in trained])

    def _require_trained_adapters(self, gradients: Sequence[Tensor | None]) -> None:
        """Reject adapters that the loss does not depend on; later calls than the first do nothing.

        `gradients` are those of the language model's trained parameters, in their order.
        """
        if self.lora is not None and not self._adapters_train:
            names = [name for name, value in self.language_model.named_parameters() if value.requires_grad]
            require_trained(zip(names, gradients, strict=True), self.lora.target_modules)
            self._adapters_train = True

    def batch_losses(self, batch: Batch) -> dict[str, Tensor]:
        self._check_kind(batch)
        with balance_losses(self.language_model, collect=self.network.balance_experts) as balance:
            loss = target_loss(self.language_model, batch, packed=self.packed, head=self._head)
        # Weighted by targets, batches of any size add up to one mean over the step.
        total = loss.sum + loss.targets * balance[0] if balance else loss.sum
        return {"loss": total / max(batch.step_targets, 1)}

    def validation_step(self, batch: Batch | EvaluationBatch, batch_idx: int) -> list[Answer] | None:  # type: ignore[override]
        return self._evaluate(batch)

    def test_step(self, batch: Batch | EvaluationBatch, batch_idx: int) -> list[Answer] | None:  # type: ignore[override]
        return self._evaluate(batch)

    def predict_step(self, batch: EvaluationBatch, batch_idx: int) -> list[Answer]:
        return self._answers(batch)

    def _answers(self, batch: EvaluationBatch) -> list[Answer]:
        return self.answer(batch) if isinstance(batch, PromptBatch) else self.rank(batch)

    def _evaluate(self, batch: Batch | EvaluationBatch) -> list[Answer] | None:
        """Answer and score prompts, or add the loss of packed rows to the evaluation loss."""
        if isinstance(batch, EvaluationBatch):
            answers = self._answers(batch)
            self.generation_scores.update(answers)
            return answers
        self._check_kind(batch)
        loss = target_loss(self.language_model, batch, packed=self.packed, head=self._head)
        if loss.targets > 0:
            self.evaluation_loss.update(loss.sum / loss.targets, weight=loss.targets)
        return None

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("validation")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: Stage) -> None:
        self.scores = self.generation_scores.compute()
        self.generation_scores.reset()
        if len(self.scores.number):  # empty if limit_val_batches leaves only rows of the loss
            for name, mean in self.scores.means().items():
                self.log(f"{stage}/{name}", mean, prog_bar=name in ("rouge_l", "exact_match", "accuracy"))
        log_selection(self, stage, self.scores)
        has_targets = self.evaluation_loss.update_called
        self.evaluation_loss.update(0.0, weight=0.0)  # a process without targets takes part in the sum, too
        loss = self.evaluation_loss.compute()
        if has_targets or not loss.isnan():  # NaN if no process had targets, or if the loss itself is NaN
            self.log(f"{stage}/loss", loss, prog_bar=True)
        self.evaluation_loss.reset()

    def answer_fingerprint(self) -> dict[str, str] | None:
        """Return digests of weights, decoding and precision, which determine the answers to given prompts.

        ``PredictionWriter`` resumes an interrupted evaluation only if they are unchanged. Every process must call it.
        """
        assert self.tokenizer is not None
        ends = end_tokens(self.language_model, self.tokenizer)
        settings = (self.decoding, self.score, self.rouge, self.seed, ends)
        return {
            "weights": weights_digest(self),
            "decoding": repr(settings),
            "precision": f"{self.network.attention} {self.network.dtype} {self.trainer.precision}",
        }

    def restore_answers(self, answers: Sequence[Answer]) -> None:
        """Add the answers of an interrupted evaluation to the scores; one process is enough."""
        self.generation_scores.update(answers)

    @torch.no_grad()
    def answer(self, batch: PromptBatch) -> list[Answer]:
        """Generate and score an answer to each prompt, which ends at eos, a stop text or ``batch.max_new_tokens``."""
        model, tokenizer = self.language_model, self.tokenizer
        assert tokenizer is not None
        seeds = [prompt_seed(self.seed, example.task, example.id) for example in batch.examples]
        answers = answer_batch(
            model,
            tokenizer,
            batch.input_ids,
            batch.attention_mask,
            [self.decoding],
            seeds=seeds + [0] * (len(batch.input_ids) - len(seeds)),  # rows that only keep replicas in step
            max_new_tokens=batch.max_new_tokens,
            share=not self.gathers_weights,
        )
        return [
            Answer.of(example, texts[0], self.rouge) for example, [texts] in zip(batch.examples, answers, strict=False)
        ]

    def rank(self, batch: OptionBatch) -> list[Answer]:
        """Return each example's option with the highest score, and the scores of all of its options.

        The module's argument `score` says how options are compared, e.g. by the sum of their tokens' log-likelihoods.
        """
        scores = score_option_batch(self.language_model, batch)
        pairs = zip(batch.ranked, scores, strict=True)
        return [
            Answer.chosen(ranked.example, options, *options.best(score_of(self.score, ranked.example.task)), self.rouge)
            for ranked, options in pairs
        ]

    def _check_kind(self, batch: Batch) -> None:
        """Reject rows for the other architecture (decoder-only or encoder-decoder) than the model's."""
        two_stacks = self.language_model.config.is_encoder_decoder
        if two_stacks != isinstance(batch, Seq2SeqBatch):
            raise ValueError(
                f"{type(self.language_model).__name__} is {'an encoder-decoder' if two_stacks else 'a decoder-only'} "
                f"model: {'set' if two_stacks else 'leave out'} the datamodule's target_length"
            )
