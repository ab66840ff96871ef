"""A model's generation_config: kept as published, and the tokens that end an answer."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.hub_names import hub_source
from ...datamodules.pretrained_weights import building
from ...datamodules.rendering.chat import chat_end


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end an answer: eos of the tokenizer, of generation_config and of the chat template.

    Training targets end with the tokenizer's eos. A chat model ends its turn with another token, that of its template.

    Raises:
        ValueError: generation_config has something else than ids of tokens.
    """
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = [number for number in _listed(configured) if number is not None]
    if wrong := [number for number in ids if type(number) is not int]:
        raise ValueError(
            f"the generation_config of {model.config.name_or_path or type(model).__name__} has {wrong[0]!r} in "
            "eos_token_id, and answers end at ids of tokens: write a whole number, or a list of them"
        )
    ids = [tokenizer.eos_token_id, *ids, *([chat_end(tokenizer)] if tokenizer.chat_template else [])]
    return list(dict.fromkeys(number for number in ids if number is not None))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def set_generation_settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pretrained: str | None) -> None:
    """Set the generation_config of a model that will be trained, in place.

    A published generation_config is kept whole. The tokenizer's eos, which targets end with, and the end of an answer
    in its chat template are added if they are missing. A model with random weights gets the special tokens of its
    tokenizer instead of its architecture's defaults.

    Args:
        model: The model; the strategy may have built it without the files beside its weights.
        tokenizer: Tokenizer of the model.
        pretrained: Hub name or folder of the weights; None for random weights.
    """
    if pretrained is None:
        model.config.eos_token_id = tokenizer.eos_token_id
        model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=_one_or_more(end_tokens(model, tokenizer)),
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        )
        return
    try:
        name, revision = hub_source(pretrained)
        with building(pretrained):
            model.generation_config = GenerationConfig.from_pretrained(name, **revision)
    except OSError:  # no generation_config.json: transformers made the settings from config.json
        assert model.generation_config is not None
    ends = end_tokens(model, tokenizer)
    configured = model.generation_config.eos_token_id
    if not set(ends) <= set(_listed(configured)):
        added = {"eos_token_id": _one_or_more([*ends[1:], ends[0]])}
        model.generation_config = published_settings({**settings_as_fields(model), **added})


def _one_or_more(ids: list[int]) -> int | list[int]:
    """Return ids as generation_config has them: a number, or a list of several."""
    return ids if len(ids) > 1 else ids[0]


def settings_as_fields(model: PreTrainedModel) -> dict[str, Any]:
    """Return generation_config's settings that are not defaults, as plain values; empty if a model cannot generate."""
    if not model.can_generate() or model.generation_config is None:
        return {}
    fields: dict[str, Any] = json.loads(model.generation_config.to_json_string(keys_to_pop=["compile_config"]))
    return fields


def published_settings(fields: Mapping[str, Any]) -> GenerationConfig:
    """Return a GenerationConfig as if it had been read from a model's folder.

    transformers refuses to save settings that contradict each other, unless they are as they were read. Published
    settings often do, e.g. a temperature without sampling.
    """
    with TemporaryDirectory() as folder:
        (Path(folder) / "generation_config.json").write_text(json.dumps(dict(fields)), encoding="utf-8")
        return GenerationConfig.from_pretrained(folder)
