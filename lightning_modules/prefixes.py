"""Prefix tuning (Li and Liang, arXiv 2101.00190): virtual tokens before every layer of a frozen model, through peft.

The attention of each layer reads the keys and values of n virtual tokens before those of the text. Only these keys and
values are trained: 2 x layers x n x width numbers. As in peft, they fill the first positions of the model's cache (in
an encoder-decoder model, the decoder's). Training, ranking and ``generate`` all read them.

A cache has one prefix per row, so each row must hold one document. With document attention the prefix would be read by
no document, or by the first one only; such models are rejected.
"""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel, PreTrainedTokenizerBase

from ..datamodules.finite_values import require_finite_weights
from ..datamodules.hub_names import hub_source, with_revision
from ..datamodules.messages import expanded
from .attention.document_attention import IMPLEMENTATIONS
from .attention.isolation_checks import padded_attention
from .cache_names import CACHE, pop_cache

NAME = "prefix"
"""Name of the module of virtual tokens in a model."""

CONFIG = "adapter_config.json"
"""File that identifies a folder of an adapter, as peft writes it."""


@dataclass(frozen=True)
class Prefix:
    """Settings of prefix tuning: number of virtual tokens and their initial values.

    Args:
        virtual_tokens: Number of virtual tokens; Cappy (arXiv 2311.06720) uses 20.
        text: Text whose keys and values in the model initialize the virtual tokens; a short text is repeated. Random
            initial values train worse (Li and Liang, section 7.4).
    """

    virtual_tokens: int = 20
    text: str = "Read the instruction and write the answer."

    def __post_init__(self) -> None:
        if self.virtual_tokens < 1 or not self.text.strip():
            raise ValueError(f"a prefix needs at least one virtual token and a text to initialize it, got {self}")


def add_prefix(model: PreTrainedModel, prefix: Prefix, tokenizer: PreTrainedTokenizerBase) -> None:
    """Freeze a model and add virtual tokens in float32, initialized with the keys and values of a text.

    Args:
        model: The model, frozen and extended in place.
        prefix: Number of virtual tokens, and the text that initializes them.
        tokenizer: Tokenizer of the model.

    Raises:
        ValueError: The model cannot read a prefix, or its output with the prefix differs from that with the text.
    """
    require_readable_prefix(model)
    model.requires_grad_(False)
    ids = tokenizer(prefix.text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"the prefix's text {prefix.text!r} has no token in the model's vocabulary")
    ids = (ids * prefix.virtual_tokens)[: prefix.virtual_tokens]
    text = torch.tensor([ids], device=model.device)
    layers: Any = _text_cache(model, text).layers
    # [n, layers, keys and values, heads, width], flat as peft has it
    values = torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in layers])
    _, _, heads, _, width = values.shape
    read = text.flip(1)
    behind_text = _logits(model, torch.cat([text, read], dim=1), text)[:, len(ids) :]
    _install(model, values.permute(3, 0, 1, 2, 4).reshape(prefix.virtual_tokens, -1), heads=heads, width=width)
    difference = (_logits(model, read, text) - behind_text).norm() / behind_text.norm()
    if difference > (0.1 if behind_text.itemsize == 2 else 1e-3):  # rounding; an unread prefix changes most of it
        raise ValueError(
            f"{type(model).__name__} has another output with a prefix than with the text that initialized it"
        )


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: Tensor, encoded: Tensor) -> Tensor:
    """Return the logits of tokens; in an encoder-decoder model the encoder reads `encoded`."""
    training = model.training
    inputs = {"input_ids": encoded, "decoder_input_ids": ids} if model.config.is_encoder_decoder else {"input_ids": ids}
    logits: Tensor = model.eval()(**inputs, use_cache=False).logits
    model.train(training)
    return logits


def _install(model: PreTrainedModel, values: Tensor, *, heads: int, width: int) -> None:
    """Add virtual tokens of these values, [n, layers x 2 x heads x width], to a model."""
    from peft import PrefixEncoder, PrefixTuningConfig  # takes seconds to import

    config = PrefixTuningConfig(
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        num_virtual_tokens=len(values),
        num_layers=values.shape[1] // (2 * heads * width),
        num_attention_heads=heads,
        token_dim=heads * width,
        encoder_hidden_size=heads * width,
        num_transformer_submodules=1,
    )
    encoder: Any = PrefixEncoder(config)
    encoder.load_prompt_embeddings(values.float())
    encoder.config = config
    model.add_module(NAME, encoder.to(model.device))
    model.register_forward_pre_hook(_read, with_kwargs=True)


def virtual_tokens(model: nn.Module) -> int:
    """Return the number of virtual tokens that a model reads before its text; 0 without a prefix."""
    encoder = getattr(model, NAME, None)
    return 0 if encoder is None else int(encoder.config.num_virtual_tokens)


def require_readable_prefix(model: PreTrainedModel) -> None:
    """Reject models that cannot read a prefix.

    Raises:
        ValueError: The model packs rows, attends within a window, or keeps a state in place of keys and values.
    """
    name = type(model).__name__
    if model.config._attn_implementation in IMPLEMENTATIONS:
        raise ValueError(
            f"a prefix stands before one document a row, and {name} was built for packed rows: set the model's "
            f"attention to {padded_attention(type(model))} and the datamodule's packing to one_per_row"
        )
    if any(DynamicCache(config=model.config).is_sliding):
        raise ValueError(f"{name} attends within a window, and would forget a prefix that lies behind it")
    if model._is_stateful:
        raise ValueError(f"{name} carries a state and no keys and values that a prefix could stand before")


def _read(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
    """Before each forward pass: fill an empty cache with the prefix, extend the mask and shift the positions."""
    names = list(signature(type(model).forward).parameters)[1:]
    given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
    if model.is_gradient_checkpointing and model.training:
        raise ValueError(
            "recomputed blocks drop their cache, and the prefix with it: set network.gradient_checkpointing to false"
        )
    encoder = model.get_submodule(NAME)
    n, side = encoder.config.num_virtual_tokens, "decoder_" if model.config.is_encoder_decoder else ""
    text = given.get(f"{side}input_ids")
    rows = len(given[f"{side}inputs_embeds"] if text is None else text)
    cache = pop_cache(given)
    if cache is None:
        cache = DynamicCache()
        if side:
            cache = EncoderDecoderCache(cache, DynamicCache())
    if cache.get_seq_length() == 0:
        _fill(cache.self_attention_cache if side else cache, encoder, rows, model.dtype)
    given[CACHE] = cache
    mask = given.get(f"{side}attention_mask")
    if mask is not None:
        if mask.dim() != 2:
            raise ValueError(f"a prefix is read with a mask [rows, columns], got one of shape {list(mask.shape)}")
        given[f"{side}attention_mask"] = torch.cat([mask.new_ones(len(mask), n), mask], dim=1)
    for positions in ("position_ids", f"{side}position_ids"):
        if given.get(positions) is not None:
            given[positions] = given[positions] + n
            break
    return (), given


def _fill(cache: DynamicCache, encoder: Any, rows: int, dtype: torch.dtype) -> None:
    config = encoder.config
    values = encoder.embedding.weight.to(dtype)
    shape = config.num_virtual_tokens, config.num_layers, 2, config.num_attention_heads, -1
    for layer, pair in enumerate(values.view(shape).permute(1, 2, 3, 0, 4)):
        keys, contents = pair.unsqueeze(1).expand(-1, rows, -1, -1, -1)
        cache.update(keys, contents, layer)


@torch.no_grad()
def _text_cache(model: PreTrainedModel, ids: Tensor) -> DynamicCache:
    """Return the keys and values of a text in every layer; those of the decoder, if the model has two stacks."""
    training = model.training
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    cache = model.eval()(input_ids=ids, use_cache=True, **decoder)[CACHE]
    model.train(training)
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def save_prefix(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, weights: str) -> None:
    """Write the virtual tokens of a model as a folder in peft's format, with the tokenizer.

    ``PeftModel.from_pretrained`` loads those of a decoder-only model.

    Args:
        model: Model with a prefix.
        tokenizer: Tokenizer of the model.
        folder: Folder to write.
        weights: Hub name or folder of the weights that the prefix was trained with.
    """
    from safetensors.torch import save_file

    encoder: Any = model.get_submodule(NAME)
    require_finite_weights(encoder.named_parameters(), "the prefix that would be exported")
    folder.mkdir(parents=True, exist_ok=True)
    source, pin = hub_source(weights)
    encoder.config.base_model_name_or_path, encoder.config.revision = source, pin.get("revision")
    encoder.config.inference_mode = True
    encoder.config.save_pretrained(str(folder))
    embeddings = encoder.embedding.weight.detach().cpu().contiguous()
    save_file({"prompt_embeddings": embeddings}, folder / "adapter_model.safetensors")
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def base_of_prefix(folder: str) -> str | None:
    """Return the hub name or folder of the weights that a folder's prefix belongs to; None if the folder has no prefix.

    Raises:
        ValueError: The folder holds another kind of adapter.
    """
    if not (expanded(folder) / CONFIG).is_file():
        return None
    config = _adapter_config(folder)
    if str(getattr(config.peft_type, "value", config.peft_type)) != "PREFIX_TUNING":
        raise ValueError(
            f"{folder} holds an adapter of peft that is not a prefix: {config.peft_type}; merge it and save all weights"
        )
    return with_revision(str(config.base_model_name_or_path), config.revision)


def load_prefix(model: PreTrainedModel, folder: str) -> None:
    """Add the virtual tokens in a folder, as ``save_prefix`` or peft wrote it, to a model, and freeze the model.

    Raises:
        ValueError: The folder has no prefix, or one of another shape than the model's keys.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_readable_prefix(model)
    config = _adapter_config(folder)
    try:
        values = load_file(Path(folder) / "adapter_model.safetensors")["prompt_embeddings"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(
            f"{folder} has no prefix: expected prompt_embeddings in adapter_model.safetensors ({error})"
        ) from error
    heads = config.num_attention_heads
    _require_shape(model, config, folder)
    _install(model, values, heads=heads, width=config.token_dim // heads)
    model.requires_grad_(False)


def _adapter_config(folder: str) -> Any:
    """Return the configuration of a folder's adapter.

    Raises:
        ValueError: It cannot be read.
    """
    from peft import PeftConfig

    where = f"{expanded(folder) / CONFIG} describes no adapter"
    try:
        config: Any = PeftConfig.from_pretrained(folder)
    except Exception as error:  # peft looks up what the file says
        raise ValueError(f"{where} ({error!r}): export it again") from error
    sizes = ("num_layers", "num_attention_heads", "token_dim") if hasattr(config, "num_attention_heads") else ()
    if wrong := [name for name in sizes if type(getattr(config, name)) is not int or getattr(config, name) < 1]:
        raise ValueError(f"{where}: {wrong[0]} should be a number above 0: export it again")
    return config


def _require_shape(model: PreTrainedModel, config: Any, folder: str) -> None:
    layers: Any = _text_cache(model, torch.tensor([[0]], device=model.device)).layers
    ours = (len(layers), layers[0].keys.shape[1], layers[0].keys.shape[3])
    theirs = (config.num_layers, config.num_attention_heads, config.token_dim // config.num_attention_heads)
    if ours != theirs:
        raise ValueError(
            f"the prefix of {folder} has {theirs} layers, heads and columns of a head, and {type(model).__name__} has "
            f"{ours}"
        )
