"""Language models of transformers: built from a hub name, a folder or a configuration, and prepared for training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
import transformers
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..datamodules.messages import nearest
from ..datamodules.pretrained_weights import building, config_of_fields, load_pretrained, read_config
from .attention.dense_masks import built_attention, read_documents_by_mask, reads_masks
from .attention.document_attention import IMPLEMENTATIONS
from .attention.isolation_checks import (
    CannotPack,
    padded_attention,
    rejection_without_weights,
    require_document_attention,
    require_registered_attention,
)
from .attention.recurrent_layers import read_documents_alone
from .recomputation import Recomputation, recompute_blocks, require_recomputation

Dtype = Literal["float32", "float64", "bfloat16", "float16"]
Logits = Literal["chunked", "whole"]


@dataclass(frozen=True)
class Network:
    """Computation settings of a model: attention, dropout, recomputation and parameter type.

    Args:
        attention: Attention implementation. document is needed for packed rows. sdpa, eager and transformers' others
            read one document per row (rows.packing one_per_row).
        dropout: Probability of residual dropout; None keeps the value of the model's configuration.
        embedding_dropout: Probability of dropout on the token embeddings; 0 for none.
        gradient_checkpointing: Activations that the backward pass recomputes: false for none, true for those of every
            block, n for those of every n-th block, selective for all but matrix products and attention. `crosstask
            plan` compares their memory.
        compile: Compile the model's blocks with torch.compile.
        logits: chunked computes the loss of more than 2^24 logits in chunks of the vocabulary, which the backward pass
            computes again. whole keeps all logits in memory. For instruction tuning.
        balance_experts: Train the auxiliary loss of a mixture of experts, too, with the weight in the model's
            configuration (router_aux_loss_coef). For instruction tuning.
        dtype: Type of the parameters: float32, float64, bfloat16 or float16. For mixed precision keep float32 and set
            trainer.precision. With `lora` it is the type of the frozen parameters, and bfloat16 halves their memory.
    """

    attention: str = "document"
    dropout: float | None = None
    embedding_dropout: float = 0.0
    gradient_checkpointing: Recomputation = False
    compile: bool = False
    logits: Logits = "chunked"
    balance_experts: bool = False
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        for name, value in (("dropout", self.dropout or 0.0), ("embedding_dropout", self.embedding_dropout)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        require_recomputation(self.gradient_checkpointing)
        known = {*AttentionInterface().valid_keys(), *IMPLEMENTATIONS, "eager"}
        if self.attention not in known and "/" not in self.attention:  # a kernel of the hub has its owner's name
            raise ValueError(
                f"no attention {self.attention!r}; {nearest(self.attention, known)}; e.g. document or sdpa"
            )
        for name, chosen, kind in (("dtype", self.dtype, Dtype), ("logits", self.logits, Logits)):
            if chosen not in get_args(kind):
                raise ValueError(f"{name} must be one of {list(get_args(kind))}, got {chosen!r}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the parameters, as torch's."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def require_no_balance(network: Network) -> None:
    """Reject ``balance_experts`` in a training whose loss has no part for it.

    Raises:
        ValueError: It is true.
    """
    if network.balance_experts:
        raise ValueError("network.balance_experts is for instruction tuning: leave it out")


DROPOUT_FIELDS = ("dropout", "dropout_rate", "hidden_dropout", "hidden_dropout_prob", "resid_pdrop")
"""Names of the residual dropout in configurations; attention dropout has other names."""


def model_config(source: str | Mapping[str, Any], *, vocabulary: int, dropout: float | None) -> PreTrainedConfig:
    """Return transformers' configuration for a hub name, a folder or fields, with the residual dropout set.

    Args:
        source: Hub name or folder of a configuration, or its fields with ``model_type``.
        vocabulary: Size of the tokenizer; used if the fields have no vocab_size.
        dropout: Residual dropout to set; None keeps the configuration's.

    Raises:
        ValueError: There is no such configuration, or the architecture has no residual dropout to set.
    """
    if isinstance(source, str):
        try:
            config = read_config(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"there is no model at {source!r}: expected a hub name or a folder with config.json ({error})"
            ) from error
    else:
        fields = {"vocab_size": vocabulary, **source}
        if "model_type" not in fields:
            raise ValueError(f"a model's fields must name its model_type, e.g. opt, llama or t5; got {sorted(source)}")
        if (model_type := fields.pop("model_type")) not in CONFIG_MAPPING:
            raise ValueError(f"no model_type {model_type!r} in transformers; {nearest(model_type, CONFIG_MAPPING)}")
        config = config_of_fields(model_type, fields)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        raise ValueError(
            f"the configuration of {config.model_type} names no decoder_start_token_id, behind which targets are "
            "trained and generated: set it, e.g. to the padding's id as T5 does (decoder_start_token_id: 0)"
        )
    if dropout is not None:
        fields_of_dropout = [name for name in DROPOUT_FIELDS if hasattr(config, name)]
        if not fields_of_dropout:
            raise ValueError(
                f"{config.model_type} has no residual dropout to set to {dropout}; leave network.dropout out and use "
                "network.embedding_dropout"
            )
        for name in fields_of_dropout:
            setattr(config, name, dropout)
    return config


def build_model(
    config: PreTrainedConfig, *, weights: str | None, vocabulary: int, attention: str, dtype: torch.dtype
) -> PreTrainedModel:
    """Build the causal or encoder-decoder language model of a configuration, with loaded or random weights.

    The embeddings are enlarged if the tokenizer has more tokens. They are never shrunk, since published models pad
    their vocabulary on purpose.

    Args:
        config: Configuration of the model.
        weights: Hub name or folder of the weights; None for random ones.
        vocabulary: Size of the tokenizer.
        attention: Attention implementation that is registered with transformers, e.g. "document" or "sdpa".
        dtype: Type of the parameters.

    Raises:
        ValueError: The weights are not all of the architecture, or it reads text in both directions.
    """
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    require_attention(config, attention, weights)
    implementation = built_attention(config, attention)
    if weights is None:
        with building(f"a model of type {config.model_type}"):
            model = auto.from_config(config, attn_implementation=implementation, dtype=dtype)
    else:
        model = load_pretrained(auto, weights, config=config, attn_implementation=implementation, dtype=dtype)
    require_causal(model)
    if attention in IMPLEMENTATIONS:
        read_documents_alone(model)
        read_documents_by_mask(model)
    embeddings = model.get_input_embeddings().num_embeddings
    if vocabulary > embeddings:
        model.resize_token_embeddings(vocabulary)
        if weights is not None:
            rank_zero_info(
                f"the tokenizer has {vocabulary} tokens and {weights} {embeddings}: the embeddings of the others are "
                "random numbers until they are trained"
            )
    return model


def require_special_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Reject a tokenizer that writes a special token for which a model has no embedding.

    Args:
        tokenizer: The tokenizer.
        model: The model, whose table of embeddings has a row for each token id.
        name: Name of the tokenizer, for the message.

    Raises:
        ValueError: The tokenizer belongs to another model, or one of its files is damaged; names the token.
    """
    rows = model.get_input_embeddings().num_embeddings
    for token in ("bos_token", "eos_token", "cls_token", "sep_token"):
        number = getattr(tokenizer, f"{token}_id", None)
        if number is not None and number >= rows:
            raise ValueError(
                f"the tokenizer of {name!r} has the {token} {getattr(tokenizer, token)!r} as number {number}, and the "
                f"model embeds {rows} tokens: take the tokenizer of the model's training"
            )


def language_model_class(config: PreTrainedConfig, weights: str | None = None) -> type[PreTrainedModel]:
    """Return the class of transformers for a configuration's causal or encoder-decoder language model.

    Args:
        config: Configuration of the model.
        weights: Hub name or folder of the weights, for the message; None for random ones.

    Raises:
        ValueError: transformers builds no language model of the configuration.
    """
    classes = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in classes:
        kind = "an encoder-decoder" if config.is_encoder_decoder else "a decoder-only"
        raise ValueError(
            f"{weights or 'the configuration'} is not {kind} language model: its model_type is {config.model_type}, "
            f"its architectures {config.architectures}, and is_encoder_decoder is {config.is_encoder_decoder}. An "
            "encoder's folder has no decoder: give the whole model's weights"
        )
    listed: Any = classes[type(config)]  # several only for configurations that one model type shares
    return listed[0] if isinstance(listed, tuple) else listed


def packing_obstacle(config: PreTrainedConfig) -> str | None:
    """Return why a configuration's language model cannot read packed rows; None if its code shows no reason.

    Raises:
        ValueError: transformers builds no language model of the configuration.
    """
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        require_attention(config, "document")
        with torch.device("meta"):
            model = auto.from_config(config, attn_implementation=built_attention(config, "document"))
        read_documents_alone(model)
        read_documents_by_mask(model)
        require_document_attention(model)
    except CannotPack as obstacle:
        return obstacle.reason
    return rejection_without_weights(model)


def require_attention(config: PreTrainedConfig, attention: str, weights: str | None = None) -> None:
    """Reject an attention implementation that a configuration's language model does not have.

    Args:
        config: Configuration of the model.
        attention: Attention implementation of transformers, e.g. "sdpa".
        weights: Hub name or folder of the weights, for the message; None for random ones.

    Raises:
        ValueError: Names the attention that its class has, or transformers builds no language model of it.
    """
    model_class = language_model_class(config, weights)
    if attention in IMPLEMENTATIONS:
        if not reads_masks(config):
            require_registered_attention(model_class)
    elif attention == "sdpa" and padded_attention(model_class) != "sdpa":
        raise ValueError(f"{model_class.__name__} has no sdpa attention: set network.attention to eager")


def require_causal(model: PreTrainedModel) -> None:
    """Reject a decoder-only model with bidirectional attention: it would read the tokens that it should predict.

    Raises:
        ValueError: All of its attention reads in both directions.
    """
    directions = [bool(module.is_causal) for module in model.modules() if hasattr(module, "is_causal")]
    if directions and not model.config.is_encoder_decoder and not any(directions):
        raise ValueError(
            f"{type(model).__name__} reads text in both directions, and would see the tokens that it has to predict: "
            "give a decoder-only or an encoder-decoder model (or is_decoder: true in the configuration, for weights "
            "that were trained so)"
        )


def architecture_class(name: str) -> Any:
    """Return the class of transformers with this name, such as "OPTForCausalLM".

    Raises:
        ValueError: The name is not that of a model's class.
    """
    named = getattr(transformers, name, None)
    if not isinstance(named, type) or not issubclass(named, PreTrainedModel):
        raise ValueError(f"transformers {transformers.__version__} has no architecture {name}")
    return named


def untie_different(model: PreTrainedModel, stored: Callable[[str], Tensor | None]) -> list[str]:
    """Give tied weights whose stored values differ parameters of their own, in place; return these weights' names.

    The new parameters are uninitialized: the caller must load their values.

    The configurations of T5 1.1 and FLAN-T5 tie the output embeddings to the input embeddings, but their folders store
    both tables. transformers separates them when it loads a folder; whatever loads weights without it must do so, too.

    Args:
        model: The model; its parameters may be on the meta device.
        stored: Returns the stored values of a weight by its name, or None if it is not stored.
    """
    separated = []
    for name, source in list(model.all_tied_weights_keys.items()):
        theirs, shared = stored(name), stored(source)
        if theirs is None or shared is None or torch.equal(theirs, shared):
            continue
        place, _, attribute = name.rpartition(".")
        tied = model.get_parameter(name)
        setattr(model.get_submodule(place), attribute, nn.Parameter(torch.empty_like(tied), tied.requires_grad))
        del model.all_tied_weights_keys[name]
        separated.append(name)
    return separated


def prepare_network(model: PreTrainedModel, network: Network) -> None:
    """Add embedding dropout, activation checkpointing and compilation to a built model, in place."""
    add_embedding_dropout(model, network.embedding_dropout)
    recompute_blocks(model, network.gradient_checkpointing)
    if network.compile:
        compile_layers(model)


def require_one_start(pretrained: str | None, config: object) -> None:
    """Require exactly one of `pretrained` and `config`.

    Args:
        pretrained: Hub name or folder of weights; None if it is not given.
        config: Configuration for random weights; None if it is not given.

    Raises:
        ValueError: Both or none are given.
    """
    if (pretrained is None) == (config is None):
        raise ValueError(
            "give either `pretrained` (weights to start from) or `config` (random weights), "
            f"got pretrained={pretrained!r} and config={config!r}"
        )


def require_positions(config: PreTrainedConfig, row_length: int) -> None:
    """Reject rows that are longer than the model's number of positions.

    Raises:
        ValueError: A row has more columns than the model has positions; names both numbers.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and row_length > positions:
        raise ValueError(
            f"row_length = {row_length} exceeds the {positions} positions of the model ({config.model_type}): "
            "shorten the rows or choose a model with more positions"
        )


def add_embedding_dropout(model: PreTrainedModel, probability: float) -> None:
    """Add dropout to the token embeddings, which many architectures (OPT, Llama) lack.

    OPT-IML trains with it (arXiv 2212.12017, section 3.3). It is a forward hook, so that parameters keep their names.
    T5 and BART have an embedding module in each stack that share one weight; every such module gets the hook.
    """

    def drop(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        return F.dropout(embedded, probability, training=module.training)

    table = model.get_input_embeddings().weight
    for module in model.modules():
        if probability and isinstance(module, nn.Embedding) and module.weight is table:
            module.register_forward_hook(drop)


def compile_layers(model: PreTrainedModel) -> None:
    """Compile every block of the model in place.

    All blocks share their code, so that one compilation serves them all. The LightningModule itself is not compiled,
    since that breaks its logging.
    """
    names = set(model._no_split_modules or ())  # transformers has no public list of a model's blocks
    for module in model.modules():
        if any(base.__name__ in names for base in type(module).__mro__):  # FSDP2 replaces a block's class by a subclass
            module.compile()
