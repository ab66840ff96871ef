"""Loading of published models with all weights that their architecture needs; otherwise the model is rejected.

transformers draws weights that a folder lacks at random and continues, with a warning: an encoder without its decoder,
or a model without its ``lm_head``, would be trained, evaluated and reported as if it were the published one.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning.pytorch.utilities.rank_zero import WarningCache
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from .data_files import read_json
from .finite_values import require_finite_weights
from .hub_names import hub_source
from .messages import is_ours, kind, some
from .optional_packages import missing_package

_REPORTED = WarningCache()
"""Prints each message on weights once: a model may be loaded twice, with another attention."""


LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
"""Fields of configurations that count layers."""

MOST_LAYERS = 10_000
"""Layers of a configuration that is built; a stranger's may ask for a thousand million, which would take for ever."""


def read_config(name: str) -> PreTrainedConfig:
    """Return the configuration of a model, from a hub name, possibly with @revision, or a folder.

    Raises:
        ValueError: There is none, or a field has a value that no model has.
    """
    source, revision = hub_source(name)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False, **revision)
    except (OSError, ValueError):
        raise
    except Exception as error:  # fields of other types raise errors of any kind
        raise ValueError(f"config.json cannot be used: {_one_line(error)}") from error
    require_possible_sizes(config)
    return without_router_logits(config, name)


def config_of_fields(model_type: str, fields: Mapping[str, Any]) -> PreTrainedConfig:
    """Return a configuration of a model type that transformers has, from its fields.

    Raises:
        ValueError: A field has a value that no model has.
    """
    try:
        config: PreTrainedConfig = AutoConfig.for_model(model_type, **with_special_floats(dict(fields)))
    except Exception as error:  # fields of other types raise errors of any kind
        raise ValueError(f"no {model_type} has this configuration: {_one_line(error)}") from error
    require_possible_sizes(config)
    return without_router_logits(config, model_type)


def without_router_logits(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """Return a configuration after setting ``output_router_logits`` to false, in place; log it where it was true.

    transformers' models return their auxiliary loss with it, and fail when they generate (5.23).

    Args:
        config: Configuration of a model.
        name: Name of the model, for the log.
    """
    text = config.get_text_config(decoder=True)
    if getattr(text, "output_router_logits", False):
        text.output_router_logits = False
        _REPORTED.info(
            f"{name}: its output_router_logits is read as false, since models cannot generate with it; "
            "network.balance_experts trains the auxiliary loss of its experts"
        )
    return config


def with_special_floats(value: Any) -> Any:
    """Return a value of a configuration with floats in place of the tags that transformers writes into JSON.

    >>> with_special_floats({"time_step_limit": [0.0, {"__float__": "Infinity"}]})
    {'time_step_limit': [0.0, inf]}
    """
    if isinstance(value, dict):
        tag = value.get("__float__") if len(value) == 1 else None
        if tag in ("Infinity", "-Infinity", "NaN"):
            return float(tag)
        return {name: with_special_floats(part) for name, part in value.items()}
    return [with_special_floats(part) for part in value] if isinstance(value, list) else value


def require_possible_sizes(config: PreTrainedConfig) -> None:
    """Raise an error for a model configuration with so many layers that building them would not end.

    Raises:
        ValueError: There are more than ``MOST_LAYERS``; the message names the field.
    """
    for name in LAYERS:
        if isinstance(number := getattr(config, name, None), int) and number > MOST_LAYERS:
            raise ValueError(f"{name} is {number:,} in the configuration, and no model has more than {MOST_LAYERS:,}")


@contextmanager
def building(what: str) -> Iterator[None]:
    """Context manager that turns errors of transformers and torch, while they build a model, into sentences for users.

    Args:
        what: Name or folder of the model, with which the message begins.

    Raises:
        ValueError: The configuration's sizes are impossible, a file has other contents, or memory ran out.
    """
    try:
        yield
    except (OSError, ImportError, SafetensorError, UnpicklingError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and is_ours(error):
            raise
        raise ValueError(
            f"{what} cannot be built: {_one_line(error)}. Its config.json or generation_config.json is wrong, or "
            "memory ran out"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def load_pretrained(
    auto: Any, weights: str, *, optional: Callable[[PreTrainedModel, str], bool] | None = None, **options: Any
) -> PreTrainedModel:
    """Return a transformers model with its pretrained weights; missing weights are an error.

    Args:
        auto: Class with ``from_pretrained``, e.g. ``AutoModelForCausalLM``.
        weights: Hub name, possibly with @revision, or folder of the weights.
        optional: Function of (model, weight name) that returns whether the weight may be missing and drawn at random:
            one of a new head that will be trained, or of a part that this use never runs. None if none may.
        options: Further arguments of ``from_pretrained``.

    Raises:
        ValueError: Weights cannot be found or read, are missing, have other shapes, or are not finite; the model cannot
            be built, or needs a package that is missing. Weights that the model does not use are logged.
    """
    source, revision = hub_source(weights)
    options |= revision
    require_readable_settings(Path(source))
    try:
        # Shapes are compared below: transformers' own error does not name them.
        with building(weights), _without_report():
            model, loading = auto.from_pretrained(
                source, output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False, **options
            )
    except ImportError as error:
        raise ValueError(f"{weights} cannot be loaded: {missing_package(error) or error}") from error
    except (OSError, SafetensorError, UnpicklingError) as error:
        raise ValueError(
            f"no weights could be read from {weights!r}: expected a hub name or a folder with *.safetensors ({error})"
        ) from error
    new = {name for name in loading["missing_keys"] if optional is not None and optional(model, name)}
    if new:
        _REPORTED.info(f"{weights} lacks {len(new)} weights that are drawn at random: {some(sorted(new))}")
    require_whole_weights(
        weights,
        type(model).__name__,
        expected=len(model.state_dict()),
        missing=set(loading["missing_keys"]) - new,
        reshaped={name: (tuple(theirs), tuple(ours)) for name, theirs, ours in loading["mismatched_keys"]},
        unused=loading["unexpected_keys"],
    )
    require_finite_weights(model.named_parameters(), weights)
    return model


def require_readable_settings(folder: Path) -> None:
    """Reject a folder whose generation_config.json is not a JSON object, which transformers would silently ignore.

    Raises:
        ValueError: The file is not a JSON object; the message names it.
    """
    path = folder / "generation_config.json"
    if path.is_file() and not isinstance(settings := read_json(path), dict):
        raise ValueError(f"{path}: expected an object with settings of generation, got {kind(settings)}")


def require_whole_weights(
    where: object,
    architecture: str,
    *,
    expected: int,
    missing: Collection[str],
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    unused: Collection[str] = (),
) -> None:
    """Raise an error if a model's stored weights are incomplete or have other shapes; log unused ones once.

    Args:
        where: Hub name, folder or checkpoint of the weights.
        architecture: Name of the model's class.
        expected: Number of the model's weights.
        missing: Weights of the model that are not stored. Do not list a weight that is tied to a stored one, nor a
            buffer that is never stored.
        reshaped: For each weight whose shapes differ, (stored shape, shape in the model).
        unused: Stored weights that the model does not have.

    Raises:
        ValueError: Weights are missing or have other shapes.
    """
    if missing:
        raise ValueError(
            f"{where} lacks {len(missing)} of the {expected} weights of {architecture}, e.g. {some(sorted(missing))}: "
            "they would be random numbers. Give the whole model's weights; an encoder's folder has no decoder, and a "
            "base model's no head"
        )
    if reshaped:
        name, (theirs, ours) = min(reshaped.items())
        raise ValueError(
            f"{where} does not fit {architecture}: {name} has the shape {theirs}, and the model's is {ours} "
            f"({len(reshaped)} of {expected} weights differ): give weights, configuration and tokenizer of one model"
        )
    if unused:
        _REPORTED.info(f"{where} has {len(unused)} weights that {architecture} does not use: {some(sorted(unused))}")


@contextmanager
def _without_report() -> Iterator[None]:
    """Hide transformers' table of missing and unused weights, which a sentence here replaces."""
    logger = logging.getLogger("transformers.modeling_utils")

    def keeps(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(keeps)
    try:
        yield
    finally:
        logger.removeFilter(keeps)
