"""Names of the argument and output of transformers' models that hold the cache: 5.24 renamed it to ``cache``."""

import dataclasses
from typing import Any

from transformers.modeling_outputs import CausalLMOutputWithPast

EARLIER = "past_key_values"

CACHE = "cache" if "cache" in {field.name for field in dataclasses.fields(CausalLMOutputWithPast)} else EARLIER
"""Name in the installed transformers. The earlier one is accepted by 5.24, with a warning."""

CACHE_NAMES = ("cache", EARLIER, "cache_params")
"""All names under which a model or a layer may get a cache; ``cache_params`` is that of recurrent layers."""


def pop_cache(arguments: dict[str, Any]) -> Any:
    """Remove all names of the cache from the arguments of a forward pass, and return the cache; None for none.

    >>> pop_cache({"input_ids": 1, "cache": None, "past_key_values": "keys and values"})
    'keys and values'
    """
    caches = [arguments.pop(name, None) for name in CACHE_NAMES]
    return next((cache for cache in caches if cache is not None), None)
