"""Compiled decoding: steps of one shape on a cache of fixed size, in place of steps whose cache grows."""

# R rows, C columns of the cache, H heads, E width of a head, V vocabulary, T generated tokens, S samples of each prompt
# P prompts that are added, L their columns, N some of the rows

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel, StaticLayer

from ..cache_names import CACHE
from .continuous_batching import RunningPrompts
from .prompt_cache import PromptCache

STEPS = 8
"""Tokens that are generated before the host reads which rows have ended. Stop texts are compared after every token."""

SHAPES = 64
"""Largest number of shapes of a step that are compiled: rows and columns are powers of two."""


class RowLayer(StaticLayer):
    """A layer's cache of fixed size, in which every row is at its own column.

    transformers' ``StaticLayer`` writes all rows to one column, so that prompts at different steps cannot share it.

    Args:
        columns: Number of cached tokens of a row, C.
        column_R1: Column that each row is written to; read at every update.
    """

    def __init__(self, columns: int, column_R1: Tensor) -> None:
        super().__init__(max_cache_len=columns)
        self.column_R1 = column_R1

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values [R, H, 1, E]; return all of them, [R, H, C, E]."""
        keys, values = _parts(self)
        for stored, new in ((keys, key_states), (values, value_states)):
            stored.scatter_(2, self.column_R1[:, None, :, None].expand_as(new), new.to(stored.dtype))
        return keys, values


class CompiledPrompts(RunningPrompts):
    """Generates the answers to a batch of prompts as ``RunningPrompts`` does, by steps of one shape, compiled once.

    Each sample of an answer is a row, with its tokens in the columns of their positions. Rows that have ended are
    computed until waiting prompts take their places. Greedy steps do not wait for the device: which rows have ended is
    read after every ``STEPS`` tokens.

    Args:
        places: Largest number of prompts at a time, a power of two for few compilations.
        columns: Largest number of tokens of a prompt and its answer together, a power of two, too.
        arguments: Arguments of ``RunningPrompts``; keyword arguments are passed to it, too.
    """

    def __init__(self, *arguments: Any, places: int, columns: int, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.samples, self.free = self.draw.rows, list(range(places))[::-1]
        self.place_of: dict[int, int] = {}
        rows, device = places * self.samples, self.model.device
        self.token_R1, self.column_R1 = (torch.zeros(rows, 1, dtype=torch.int64, device=device) for _ in range(2))
        self.step_R = torch.zeros(rows, dtype=torch.int64, device=device)
        self.ended_R = torch.ones(rows, dtype=torch.bool, device=device)
        self.ids_RT = torch.full((rows, self.max_new_tokens), self.pad_token_id, device=device)
        depth = self.model.config.get_text_config().num_hidden_layers
        self.cache: Any = Cache(layers=[RowLayer(columns, self.column_R1) for _ in range(depth)])
        self.forward = compiled_step(device.type)

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # as in answer_batch
    def add(self, prompts: Sequence[int], read: PromptCache) -> None:
        """Add prompts to the batch, which must have room for them; see ``RunningPrompts.add``."""
        states, seen_PL = read.states(1)[CACHE], read.attention_mask.bool()
        places = [self.free.pop() for _ in prompts]
        self.prompts += prompts
        self.place_of |= dict(zip(prompts, places, strict=True))
        row_N = self._rows(places)
        # Real columns first, in their order. What follows them is overwritten before a token attends to it.
        order_PL = (~seen_PL[:, :-1]).int().argsort(dim=1, stable=True)
        layers: Any = zip(self.cache.layers, states.layers, strict=True)
        for layer, source in layers:
            if not layer.is_initialized:
                layer.lazy_initialization(*(part[:1].expand(len(self.step_R), -1, -1, -1) for part in _parts(source)))
            for stored, part in zip(_parts(layer), _parts(source), strict=True):
                ordered = part.gather(2, order_PL[:, None, :, None].expand_as(part))
                stored[row_N, :, : ordered.shape[2]] = ordered.repeat_interleave(self.samples, dim=0)
        self.token_R1[row_N] = read.input_ids[:, -1:].repeat_interleave(self.samples, dim=0)
        self.column_R1[row_N] = (seen_PL.sum(dim=1, keepdim=True) - 1).repeat_interleave(self.samples, dim=0)
        self.step_R[row_N], self.ended_R[row_N], self.ids_RT[row_N] = 0, False, self.pad_token_id

    @torch.no_grad()
    def step(self) -> list[tuple[int, Tensor]]:
        """Generate up to ``STEPS`` tokens in every row; return (number, token ids [S, T]) of ended prompts."""
        row_N = self._rows([self.place_of[prompt] for prompt in self.prompts])
        for _ in range(1 if self.stop is not None else STEPS):
            self._generate(row_N)
        whole = self.ended_R[row_N].view(-1, self.samples).all(dim=1).tolist()
        if not any(whole):
            return []
        ended = [prompt for prompt, is_whole in zip(self.prompts, whole, strict=True) if is_whole]
        running = [number for number, is_whole in enumerate(whole) if not is_whole]
        kept = torch.tensor(running, dtype=torch.int64)[:, None] * self.samples + torch.arange(self.samples)
        self.draw.keep(kept.flatten())
        self.prompts = [self.prompts[number] for number in running]
        places = [self.place_of.pop(prompt) for prompt in ended]
        self.free += places
        return [(prompt, self.ids_RT[self._rows([place])]) for prompt, place in zip(ended, places, strict=True)]

    def _generate(self, row_N: Tensor) -> None:
        """Generate one token in the rows `row_N` that have not ended; they are in the order of ``draw``."""
        logits_NV = self._logits()[row_N].to(torch.float32, copy=True)
        step_N, running_N = self.step_R[row_N], ~self.ended_R[row_N]
        if self.min_new_tokens:
            early_N1 = (step_N < self.min_new_tokens)[:, None]
            logits_NV[:, self.ends] = logits_NV[:, self.ends].masked_fill(early_N1, -torch.inf)
        every, last_N = torch.arange(len(row_N), device=row_N.device), step_N.clamp(max=self.max_new_tokens - 1)
        chosen_N = self.draw.choose(last_N, logits_NV, every, every)
        self.ids_RT[row_N, last_N] = torch.where(running_N, chosen_N, self.ids_RT[row_N, last_N])
        self.token_R1[row_N] = chosen_N[:, None]
        self.column_R1[row_N] += running_N[:, None]
        self.step_R[row_N] += running_N
        ended_N = ~running_N | torch.isin(chosen_N, self.ends) | (step_N + 1 >= self.max_new_tokens)
        if self.stop is not None:
            ended_N |= self.stop.ended(self.ids_RT[row_N], self.step_R[row_N])
        self.ended_R[row_N] = ended_N

    @torch.compiler.set_stance("default")
    def _logits(self) -> Tensor:
        """Return the logits [R, V] of every row's next token."""
        torch.compiler.cudagraph_mark_step_begin()
        return self.forward(self.model, self.token_R1, self.column_R1, self.cache)

    def _rows(self, places: Sequence[int]) -> Tensor:
        place_P1 = torch.tensor(places, dtype=torch.int64)[:, None]
        row_N = (place_P1 * self.samples + torch.arange(self.samples)).flatten()
        return row_N.to(self.model.device, non_blocking=True)


def decode_step(model: PreTrainedModel, token_R1: Tensor, column_R1: Tensor, cache: Cache) -> Tensor:
    """Return the logits [R, V] behind one token of each row, which attends to itself and to the columns before it."""
    columns: int = cache.layers[0].keys.shape[2]  # type: ignore[union-attr]
    seen_RC = torch.arange(columns, device=column_R1.device) <= column_R1
    logits: Tensor = model(
        input_ids=token_R1,
        attention_mask=seen_RC[:, None, None],
        position_ids=column_R1,
        use_cache=True,
        **{CACHE: cache},
    ).logits
    return logits[:, -1]


def compiles(model: PreTrainedModel) -> bool:
    """Return whether a forward pass of the model can be compiled as one graph, as its class states."""
    return bool(model._can_compile_fullgraph)


@cache
def compiled_step(device: str) -> Callable[..., Tensor]:
    """Return ``decode_step``, compiled for each shape; on CUDA its kernels are replayed as one graph."""
    mode = "reduce-overhead" if device == "cuda" else None
    options: dict[str, Any] = {"recompile_limit": SHAPES}  # an argument that the typed overloads lack
    return torch.compile(decode_step, fullgraph=True, dynamic=False, mode=mode, **options)


def fixed_shape(rows: int, tokens: int) -> tuple[int, int]:
    """Return the powers of two that hold a batch: its rows, and its tokens with their answers, at least 64.

    >>> fixed_shape(5, 70)
    (8, 128)
    """
    return 2 ** math.ceil(math.log2(rows)), max(2 ** math.ceil(math.log2(tokens)), 64)


def _parts(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values
