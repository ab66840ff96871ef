"""Instruction tuning (OPT-IML): a language model learns to write the targets of packed instructions."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..datamodules.evaluation.option_batches import CausalOptionBatch, OptionBatch, Seq2SeqOptionBatch
from ..datamodules.rendering.tokenization import load_tokenizer
from ..datamodules.rouge import Rouge
from ..datamodules.schema import CausalBatch, PromptBatch, Seq2SeqBatch
from .adapters import LoRA, add_adapters, describe_adapters, require_same_base
from .attention.document_attention import IMPLEMENTATIONS
from .attention.packable import require_document_attention
from .evaluation.aggregation import log_selection
from .evaluation.answers import Answer
from .evaluation.generation import Decoding, answer_batch, prompt_seed
from .evaluation.generation_scores import GenerationScores
from .evaluation.likelihood import score_option_batch
from .evaluation.metrics import Scores
from .evaluation.option_scores import Score
from .evaluation.weights_digest import weights_digest
from .models import add_embedding_dropout, build_model, compile_layers, model_config, require_positions
from .optimization import linear_schedule
from .planned_training import PlannedTraining
from .prefixes import Prefix, add_prefix
from .sharding.checkpoints import KEY
from .target_loss import target_loss

Batch = CausalBatch | Seq2SeqBatch
EvaluationBatch = PromptBatch | CausalOptionBatch | Seq2SeqOptionBatch


class InstructionTuningModule(PlannedTraining):
    """A causal or encoder-decoder language model, trained on the targets of packed rows.

    The loss of an optimizer step is one mean over all its target tokens, whatever the number of devices, rows
    and accumulated batches. Evaluation answers every prompt and scores ROUGE-L and exact match.

    Args:
        tokenizer: Hub name or folder of the tokenizer; linked to the datamodule's.
        pretrained: Hub name or folder of the weights to start from.
        config: Start from random weights instead: a hub name or folder of a configuration, or its fields with
            model_type.
        row_length: Columns of a packed row, checked against the model's positions; linked to the datamodule's.
        total_steps: Optimizer steps of the whole training, for the schedule; linked to trainer.max_steps.
        learning_rate: Peak of the schedule.
        warmup_steps: Optimizer steps until the peak.
        betas: Adam's decay rates of both moments.
        weight_decay: Decay of matrices; biases and norms never decay.
        dropout: Residual dropout in place of the model's own setting.
        embedding_dropout: Dropout of the token embeddings.
        attention: Packed rows need document; sdpa and others read one document a row (packing one_per_row).
        gradient_checkpointing: Recompute blocks in the backward pass instead of keeping their activations.
        compile: Compile the model's blocks.
        fused: Use torch's fused AdamW, faster on CUDA.
        dtype: Type of the parameters; keep float32 and choose trainer.precision for mixed precision. With ``lora`` it
            is the type of the frozen ones, and bfloat16 halves them.
        lora: Train low-rank adapters beside the frozen weights of ``pretrained`` instead of all weights, on one device
            or under ddp.
        prefix: Train virtual tokens before every layer of the frozen ``pretrained`` instead (prefix tuning), on one
            device or under ddp; with attention sdpa and one document a row.
        seed: Decides what dropout drops, and sampled answers.
        decoding: How prompts are answered at evaluation, greedily by default; its first answer is the one scored.
        stop: Texts that end an answer, beside eos; neither they nor what follows are part of it.
        score: How the options of an example are compared, where the datamodule has them ranked: by their log-likelihood
            (sum), its mean over tokens or bytes, or by pmi, which needs the datamodule's unconditional prompt.
        rouge: Which implementation computes ROUGE-L: exact is our own, many times faster than Google's rouge_score and
            equal to it.
    """

    def __init__(
        self,
        tokenizer: str,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        row_length: int = 2048,
        total_steps: int = -1,
        learning_rate: float = 5e-5,
        warmup_steps: int = 60,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        dropout: float | None = None,
        embedding_dropout: float = 0.0,
        attention: str = "document",
        gradient_checkpointing: bool = False,
        compile: bool = False,
        fused: bool = False,
        dtype: str = "float32",
        lora: LoRA | None = None,
        prefix: Prefix | None = None,
        seed: int = 0,
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
        stop: Sequence[str] = (),
        score: Score = "sum",
        rouge: Rouge = "exact",
    ) -> None:
        super().__init__()
        if (pretrained is None) == (config is None):
            raise ValueError(
                "give either `pretrained` (weights to start from) or `config` (random weights), "
                f"got pretrained={pretrained!r} and config={config!r}"
            )
        if lora is not None and prefix is not None:
            raise ValueError("give either lora or a prefix: a checkpoint holds one of them")
        if (lora or prefix) is not None and pretrained is None:
            kind = "lora trains adapters" if lora is not None else "a prefix is trained"
            raise ValueError(f"{kind} beside the weights of `pretrained`; random ones are not worth keeping")
        self.lora, self.prefix = lora, prefix
        self.adapters: LoRA | Prefix | None = lora or prefix
        """What is trained beside frozen weights."""
        self.tokenizer_name, self.pretrained, self.config = tokenizer, pretrained, config
        self.row_length, self.total_steps = row_length, total_steps
        self.learning_rate, self.warmup_steps, self.betas = learning_rate, warmup_steps, betas
        self.weight_decay, self.dropout, self.embedding_dropout = weight_decay, dropout, embedding_dropout
        self.attention, self.gradient_checkpointing, self.compile_blocks = attention, gradient_checkpointing, compile
        self.fused, self.dtype_name, self.seed = fused, dtype, seed
        self.decoding, self.stop = replace(decoding, samples=1), tuple(stop)
        self.score, self.rouge = score, rouge
        self.model: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.scores: Scores | None = None
        self.generation_scores = GenerationScores()
        self.evaluation_loss = MeanMetric()

    def setup(self, stage: str) -> None:
        """Refuse adapters where weights are cut, before a model is built."""
        strategy = self.trainer.strategy
        if self.adapters is not None and not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                f"{'lora' if self.lora else 'a prefix'} trains adapters beside whole weights: set the strategy to auto "
                f"or ddp, got {type(strategy).__name__}"
            )
        super().setup(stage)

    def configure_model(self) -> None:
        """Build tokenizer and model; Lightning may call it again, and it does nothing then."""
        if self.model is not None:
            return
        self.tokenizer = load_tokenizer(self.tokenizer_name)
        vocabulary = len(self.tokenizer)
        config = model_config(self.pretrained or self.config or {}, vocabulary=vocabulary, dropout=self.dropout)
        require_positions(config, self.row_length + (self.prefix.virtual_tokens if self.prefix else 0))
        if self.prefix is not None and self.gradient_checkpointing:
            raise ValueError("blocks that are recomputed drop the prefix: set gradient_checkpointing to false")
        model = self.built(partial(self._build, config, vocabulary), self.pretrained)
        # Targets end with the tokenizer's eos; a configuration of fields knows another one, or none.
        model.config.eos_token_id = model.generation_config.eos_token_id = self.tokenizer.eos_token_id
        model.generation_config.pad_token_id = self.tokenizer.pad_token_id
        add_embedding_dropout(model, self.embedding_dropout)
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable()
        if self.compile_blocks:
            compile_layers(model)
        # from_pretrained hands out a model in evaluation mode, and Lightning keeps modes: nothing would be dropped.
        self.model = model.train()

    def _build(self, config: PreTrainedConfig, vocabulary: int, weights: str | None) -> PreTrainedModel:
        """The whole model, from weights or from random ones."""
        model = build_model(
            config,
            weights=weights,
            vocabulary=vocabulary,
            attention=self.attention,
            dtype=getattr(torch, self.dtype_name),
        )
        if self.packed:
            require_document_attention(model, self.row_length)
        if self.lora is not None:
            if vocabulary > config.vocab_size:
                raise ValueError(
                    f"the tokenizer has {vocabulary} tokens and {self.pretrained} {config.vocab_size}: lora keeps the "
                    "embeddings frozen, and new ones would never be learned"
                )
            add_adapters(model, self.lora)
        if self.prefix is not None:
            assert self.tokenizer is not None
            add_prefix(model, self.prefix, self.tokenizer)
        return model

    @property
    def packed(self) -> bool:
        """Whether attention keeps the documents of a row apart."""
        return self.attention in IMPLEMENTATIONS

    @property
    def language_model(self) -> PreTrainedModel:
        """The model of transformers, once it is built."""
        if self.model is None:
            raise RuntimeError("the model is not built yet: call configure_model() first")
        return self.model

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.adamw(
            self.language_model,
            learning_rate=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=self.fused,
        )
        schedule = linear_schedule(optimizer, warmup=self.warmup_steps, total=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.adapters is not None:
            assert self.pretrained is not None
            checkpoint[KEY]["adapters"] = describe_adapters(self.language_model, self.adapters, self.pretrained)
            frozen = self._frozen()
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        described = checkpoint.get(KEY, {}).get("adapters")
        if (described is None) != (self.adapters is None):
            held = "all weights and no adapters" if described is None else "adapters alone"
            raise ValueError(
                f"the checkpoint holds {held}, and the model has lora = {self.lora}, prefix = {self.prefix}"
            )
        if described is not None and self.adapters is not None:
            require_same_base(self.language_model, self.adapters, described, "the checkpoint")
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._frozen()}

    def _frozen(self) -> dict[str, Tensor]:
        """Frozen parts of the module's state, which a checkpoint of adapters leaves out."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name not in trained}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """This batch's part of the mean over all target tokens of the step."""
        self._check_kind(batch)
        loss = target_loss(self.language_model, batch, packed=self.packed)
        return self.step_part(loss.sum / max(batch.step_targets, 1), batch_idx)

    def validation_step(self, batch: Batch | EvaluationBatch, batch_idx: int) -> list[Answer] | None:  # type: ignore[override]
        return self._evaluate(batch)

    def test_step(self, batch: Batch | EvaluationBatch, batch_idx: int) -> list[Answer] | None:  # type: ignore[override]
        return self._evaluate(batch)

    def predict_step(self, batch: EvaluationBatch, batch_idx: int) -> list[Answer]:
        return self._answers(batch)

    def _answers(self, batch: EvaluationBatch) -> list[Answer]:
        return self.answer(batch) if isinstance(batch, PromptBatch) else self.rank(batch)

    def _evaluate(self, batch: Batch | EvaluationBatch) -> list[Answer] | None:
        """Answer and score what is asked, or add rows to the loss."""
        if isinstance(batch, EvaluationBatch):
            answers = self._answers(batch)
            self.generation_scores.update(answers)
            return answers
        self._check_kind(batch)
        loss = target_loss(self.language_model, batch, packed=self.packed)
        if loss.targets > 0:
            self.evaluation_loss.update(loss.sum / loss.targets, weight=loss.targets)
        return None

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("validation")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        self.scores = self.generation_scores.compute()
        self.generation_scores.reset()
        if len(self.scores.number):  # none where batches are limited to those of the loss
            for name, mean in self.scores.means().items():
                self.log(f"{stage}/{name}", mean, prog_bar=name in ("rouge_l", "exact_match", "accuracy"))
        log_selection(self, stage, self.scores)
        seen = self.evaluation_loss.update_called
        self.evaluation_loss.update(0.0, weight=0.0)  # a process that saw no targets takes part in the sum, too
        loss = self.evaluation_loss.compute()
        if seen or not loss.isnan():  # NaN where no process saw any, or where the loss itself is
            self.log(f"{stage}/loss", loss, prog_bar=True)
        self.evaluation_loss.reset()

    def answer_fingerprint(self) -> dict[str, str]:
        """What decides an answer beside its prompt; every process must ask. See ``PredictionWriter``."""
        settings = (self.decoding, self.stop, self.score, self.rouge, self.seed)
        computed = (self.attention, self.dtype_name, str(self.trainer.precision))
        return {
            "weights": weights_digest(self),
            "decoding": repr(settings),
            "precision": " ".join(computed),
        }

    def restore_answers(self, answers: Sequence[Answer]) -> None:
        """Score answers that an earlier run gave; one process is enough."""
        self.generation_scores.update(answers)

    @torch.no_grad()
    def answer(self, batch: PromptBatch) -> list[Answer]:
        """Answers to a batch of prompts, each until eos or ``batch.max_new_tokens``, scored."""
        model, tokenizer = self.language_model, self.tokenizer
        assert tokenizer is not None
        asked = [prompt_seed(self.seed, example.task, example.id) for example in batch.examples]
        found = answer_batch(
            model,
            tokenizer,
            batch.input_ids,
            batch.attention_mask,
            [self.decoding],
            seeds=asked + [0] * (len(batch.input_ids) - len(asked)),  # rows that only keep replicas in step
            max_new_tokens=batch.max_new_tokens,
            stop=self.stop,
        )
        return [
            Answer.of(example, texts[0], self.rouge) for example, [texts] in zip(batch.examples, found, strict=False)
        ]

    def rank(self, batch: OptionBatch) -> list[Answer]:
        """The likeliest option of every example by ``score``, with all scores of all its options."""
        scores = score_option_batch(self.language_model, batch)
        ranked = zip(batch.ranked, scores, strict=True)
        return [Answer.chosen(each.example, found, *found.best(self.score), self.rouge) for each, found in ranked]

    def _check_kind(self, batch: Batch) -> None:
        """Refuse rows that the model cannot read, on the first batch rather than with a shape error."""
        two_stacks = self.language_model.config.is_encoder_decoder
        if two_stacks != isinstance(batch, Seq2SeqBatch):
            raise ValueError(
                f"{type(self.language_model).__name__} is {'an encoder-decoder' if two_stacks else 'a decoder-only'} "
                f"model: {'set' if two_stacks else 'leave out'} the datamodule's target_length"
            )
