"""The run to make a plan for, read from its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ...datamodules.hub_names import with_revision
from ...datamodules.rendering.tokenization import load_tokenizer
from ..adapters import LoRA, add_adapters
from ..attention.isolation_checks import padded_attention
from ..hyperparameters import as_group
from ..instructions.outer_settings import OuterSettings
from ..models import Network, add_embedding_dropout, build_model, language_model_class, model_config
from ..optimization import Optimization
from ..recomputation import Recomputation, recompute_blocks
from .bilevel_plan import bilevel_shape
from .layouts import layout_of
from .memory import Layout, StepShape


@dataclass(frozen=True)
class PlannedRun:
    """Settings of a run that determine its memory and time.

    Args:
        arguments: Arguments of the module, by name.
        data: Arguments of the datamodule, by name.
        trainer: Arguments of the trainer, by name.
        network: Attention, dropout, recomputation and parameter type of the model.
        lora: Adapters that are trained; None if all weights are.
        outer: Settings of the outer level, which updates the instructions; None for instruction tuning.
        layout: How the model is divided over devices.
        config: transformers' configuration of the model.
        shape: Size of a device's micro-batch.
        rows: Rows of an optimizer step over all devices; in instruction optimization, of an inner step, which updates
            the model's weights.
    """

    arguments: Mapping[str, Any]
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    network: Network
    lora: LoRA | None
    outer: OuterSettings | None
    layout: Layout
    config: PreTrainedConfig
    shape: StepShape
    rows: int

    def build(self, config: PreTrainedConfig, dtype: torch.dtype | None) -> PreTrainedModel:
        """Return the model with random weights and its adapters; a dtype of None takes the run's parameter type."""
        attention = padded_attention(language_model_class(config))
        dtype = dtype or self.network.torch_dtype
        model = build_model(config, weights=None, vocabulary=0, attention=attention, dtype=dtype)
        if self.lora is not None:
            add_adapters(model, self.lora)
        return model

    def finish(self, model: PreTrainedModel, recomputation: Recomputation) -> None:
        """Add embedding dropout and recomputation to a built model, in place."""
        add_embedding_dropout(model, self.network.embedding_dropout)
        recompute_blocks(model, recomputation)

    def counts(self, rows: int) -> dict[str, int]:
        """Return the token counts from which ``training_flops`` computes the cost of a number of full rows.

        A row is counted as one document, which is the upper bound of attention.
        """
        read, written = self.shape.columns, self.shape.target_columns or 0
        return {
            "tokens": rows * read,
            "targets": rows * (written or self.shape.targets),
            "squares": rows * read**2,
            "written": rows * written,
            "written_squares": rows * written**2,
            "products": rows * read * written,
        }


def read_run(configuration: Mapping[str, Any], *, targets: float, devices: int | None = None) -> PlannedRun:
    """Return the settings of a parsed configuration that determine the memory and time of its training.

    Args:
        configuration: Arguments of trainer, data and model, by name.
        targets: Share of a row's tokens that are targets, in [0, 1].
        devices: Number of all devices; None for what the configuration states.

    Raises:
        ValueError: No plan exists for the module or its settings, or the rows of a step cannot be divided.
    """
    model, data, trainer = (configuration[part] for part in ("model", "data", "trainer"))
    bilevel = model["class_path"].endswith("InstructionOptimizationModule")
    _require_planned(model["class_path"], trainer, bilevel)
    arguments, data = model["init_args"], data["init_args"]
    network, optimizer = as_group(Network, arguments["network"]), as_group(Optimization, arguments["optimizer"])
    layout = layout_of(trainer, devices=devices, fused=optimizer.fused, master_weights=optimizer.master_weights)
    _require_planned_adapters(arguments, layout)
    if bilevel:
        shape, rows = bilevel_shape(data, layout, targets), data["levels"]["inner_rows"]
    else:
        shape, rows = step_shape(data["rows"], trainer, layout, targets=targets), data["rows"]["per_step"]
    return PlannedRun(
        arguments,
        data,
        trainer,
        network,
        lora=as_group(LoRA, arguments.get("lora")),
        outer=as_group(OuterSettings, arguments["outer"]) if bilevel else None,
        layout=layout,
        config=_config(arguments, network),
        shape=shape._replace(chunked=network.logits == "chunked" and not bilevel),  # phi's loss has whole logits
        rows=rows,
    )


def _require_planned(name: str, trainer: Mapping[str, Any], bilevel: bool) -> None:
    if not bilevel and not name.endswith("InstructionTuningModule"):
        raise ValueError(
            f"a plan can be made for InstructionTuningModule and InstructionOptimizationModule, got {name}"
        )
    if trainer["max_steps"] < 1:
        raise ValueError(
            f"trainer.max_steps = {trainer['max_steps']}: set the number of optimizer steps, also of a run in epochs, "
            "whose steps are counted once its data is prepared"
        )


def _require_planned_adapters(arguments: Mapping[str, Any], layout: Layout) -> None:
    lora = as_group(LoRA, arguments.get("lora"))
    if lora is not None and layout.kind not in ("single", "ddp"):
        raise ValueError(f"adapters can be planned under the strategies auto and ddp, got {layout.kind}")
    if lora is not None and lora.bits:
        raise ValueError("a plan counts no matrices in 4 bits: leave lora.bits out, and subtract 1.5 bytes a parameter")
    if arguments.get("prefix") is not None:
        raise ValueError("a plan can be made for training all weights or lora, not for a prefix")


def step_shape(rows: Mapping[str, Any], trainer: Mapping[str, Any], layout: Layout, *, targets: float) -> StepShape:
    """Return the size of a device's micro-batch in instruction tuning.

    Args:
        rows: The datamodule's argument `rows`, by field.
        trainer: Arguments of the trainer, by name.
        layout: How the model is divided over devices.
        targets: Share of a row's tokens that are targets, in [0, 1].

    Raises:
        ValueError: The rows of a step cannot be divided.
    """
    parts = layout.replicas * trainer["accumulate_grad_batches"]
    if rows["per_step"] % parts:
        raise ValueError(
            f"rows.per_step = {rows['per_step']} cannot be divided into {layout.replicas} replicas x "
            f"{trainer['accumulate_grad_batches']} accumulated batches"
        )
    return StepShape(
        rows=rows["per_step"] // parts,
        columns=rows["length"],
        targets=max(round(rows["length"] * targets), 1),
        target_columns=rows.get("target_length"),
        accumulated=trainer["accumulate_grad_batches"] > 1,
    )


def _config(arguments: Mapping[str, Any], network: Network) -> PreTrainedConfig:
    source = with_revision(arguments["pretrained"], arguments.get("revision")) or arguments["config"]
    has_vocabulary = isinstance(source, str) or "vocab_size" in source
    vocabulary = 0 if has_vocabulary else len(load_tokenizer(arguments["tokenizer"]))
    return model_config(source, vocabulary=vocabulary, dropout=network.dropout)
