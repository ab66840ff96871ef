"""Generation of answers: greedy, sampled or by beam search, reproducible for any batch (decoding.py).

Greedy and sampled rows of all decodings are generated in one call, and a decoder-only model processes each prompt once
for all of its samples (prompt_cache.py). Rows that have ended leave the batch: with document attention, waiting prompts
take their places (continuous_batching.py; compiled_decoding.py); other models continue with the remaining rows
(transformers_generate.py).
"""

# R rows, L columns, T generated tokens, S samples of each prompt

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.evaluation.batch_loaders import pad_prompts
from ...datamodules.messages import counted
from ...datamodules.packing.budget_batches import budget_batches
from .compiled_decoding import CompiledPrompts, compiles, fixed_shape
from .continuous_batching import RunningPrompts
from .decoding import (
    Decoding,
    DrawTokens,
    StopTexts,
    are_compiled,
    before_end,
    cut_at_stop,
    shared_stop,
    texts_of_tokens,
)
from .generation_settings import end_tokens
from .prompt_cache import PromptCache, can_share_cache, forces_tokens
from .transformers_generate import generate_remaining


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    decodings: Sequence[Decoding],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    min_new_tokens: int = 0,
    stop: Sequence[str] = (),
    ends: Sequence[int] = (),
    budget: int = 32_768,
) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield answers to every prompt, in batches of similar length.

    The longest prompts come first, so that memory peaks at the first batch.

    Args:
        model: Causal or encoder-decoder model, on the device to generate on.
        tokenizer: Its tokenizer, with eos and padding tokens.
        sources: Token ids of each prompt.
        decodings: Ways to answer each prompt; all of them are used.
        seeds: Seed of each prompt, e.g. from ``prompt_seed``.
        max_new_tokens: Largest number of tokens of an answer.
        min_new_tokens: Number of tokens before which end tokens are excluded.
        stop: Texts that end an answer. A stop text and what follows it are not part of the answer.
        ends: Token ids that end an answer, besides those of ``end_tokens``.
        budget: Largest number of tokens in a batch, over all sequences and with their answers.

    Yields:
        (place of the prompt, answers): for each decoding ``decoding.samples`` texts, as prompts end.

    Raises:
        ValueError: A prompt is empty, there are not as many seeds as prompts, or the model's steps cannot be compiled.
    """
    compiled = are_compiled(decodings)
    require_compilable(model, compiled)
    if len(seeds) != len(sources):
        raise ValueError(f"every prompt needs a seed, got {len(seeds)} for {len(sources)} prompts")
    if empty := [place for place, source in enumerate(sources) if not len(source)]:
        number = counted(len(empty), "prompt has", "prompts have")
        raise ValueError(f"{number} no token to continue, e.g. prompt {empty[0]}: give it a bos token")
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens}
    limits |= {"stop": (*stop, *shared_stop(decodings)), "ends": all_ends(model, tokenizer, ends)}
    if all(decoding.beams == 1 for decoding in decodings) and can_replace(model):
        whole: Sequence[Sequence[int]] = [range(len(sources))]
        for places in by_columns(sources, max_new_tokens) if compiled else whole:
            yield from _generate_replacing(model, tokenizer, sources, decodings, seeds, budget, places, **limits)
        return
    drawn = sum(decoding.rows for decoding in decodings if decoding.beams == 1)
    rows = max([drawn, *(decoding.rows for decoding in decodings)])
    for batch in budget_batches([rows * (len(source) + max_new_tokens) for source in sources], budget, padded=True):
        input_ids, mask = pad_prompts(
            [sources[place] for place in batch], tokenizer.pad_token_id, left=not model.config.is_encoder_decoder
        )
        answers = answer_batch(
            model,
            tokenizer,
            input_ids.to(model.device),
            mask.to(model.device),
            decodings,
            seeds=[seeds[place] for place in batch],
            share=True,
            **limits,
        )
        yield from zip(batch, answers, strict=True)


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # a growing cache would use up the recompilations that training needs
def answer_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    attention_mask: Tensor,
    decodings: Sequence[Decoding],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    min_new_tokens: int = 0,
    stop: Sequence[str] = (),
    ends: Sequence[int] = (),
    share: bool = False,
) -> list[list[list[str]]]:
    """Return the answers to one padded batch of prompts: texts by prompt, decoding and sample.

    Args:
        model: Causal or encoder-decoder model.
        tokenizer: Its tokenizer, with eos and padding tokens.
        input_ids: [B, L], padded on the left; for an encoder, on the right.
        attention_mask: [B, L], 0 at padding.
        decodings: Ways to answer each prompt; all of them are used.
        seeds: Seed of each prompt, e.g. from ``prompt_seed``.
        max_new_tokens: Largest number of tokens of an answer.
        min_new_tokens: Number of tokens before which end tokens are excluded.
        stop: Texts that end an answer, besides those of the decodings.
        ends: Token ids that end an answer, besides those of model and tokenizer.
        share: Process the common prefix of all prompts once, and let ended rows leave the batch. The number of forward
            passes then depends on the texts, so it must be False under strategies that gather weights.

    Raises:
        ValueError: The steps of the model cannot be compiled.
    """
    compiled = are_compiled(decodings)
    require_compilable(model, compiled, share)
    stop = tuple(dict.fromkeys((*stop, *shared_stop(decodings))))
    ends = all_ends(model, tokenizer, ends)
    cache = PromptCache(model, input_ids, attention_mask, share=share)
    answers: list[list[list[str]]] = [[[] for _ in decodings] for _ in seeds]

    def add(places: Sequence[int], ids: Tensor) -> None:
        texts = answer_texts(tokenizer, ids, ends, stop)
        of_row = [place for place in places for _ in range(decodings[place].samples)]
        for row, text in enumerate(texts):
            prompt, sequence = divmod(row, len(of_row))
            answers[prompt][of_row[sequence]].append(text)

    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens, "ends": ends}
    limits["pad_token_id"] = tokenizer.pad_token_id
    together = [place for place, decoding in enumerate(decodings) if decoding.beams == 1]
    if together:
        draw = DrawTokens([decodings[place] for place in together], seeds, max_new_tokens, cache.width)
        ender = StopTexts(tokenizer, stop, cache.width) if stop else None
        if share and can_replace(model):
            running: RunningPrompts
            if compiled:
                places, columns = fixed_shape(len(seeds), cache.width + max_new_tokens)
                running = CompiledPrompts(model, draw, stop=ender, places=places, columns=columns, **limits)
            else:
                running = RunningPrompts(model, draw, stop=ender, **limits)
            running.add(range(len(seeds)), cache)
            add(together, running.finish())
        elif share:
            add(together, generate_remaining(cache, draw, stop=ender, **limits))
        else:
            add(together, cache.generate(draw.rows, processors=[draw], stop=ender, **limits))
    for place in sorted(set(range(len(decodings))) - set(together)):
        ender = StopTexts(tokenizer, stop, cache.width) if stop else None
        add(
            [place],
            cache.generate(1, stop=ender, beams=decodings[place].beams, best=decodings[place].samples, **limits),
        )
    return answers


def can_replace(model: PreTrainedModel) -> bool:
    """Return whether waiting prompts can take the places of ended ones in a batch of this model."""
    return can_share_cache(model) and not forces_tokens(model)


def require_compilable(model: PreTrainedModel, compiled: bool, share: bool = True) -> None:
    """Reject compiled decoding of a model whose steps cannot have one shape, or not in every process by itself.

    Args:
        model: The model.
        compiled: Whether decoding is to be compiled (``Decoding.compile``).
        share: Whether this process alone decides how many forward passes it makes, which strategies with divided
            weights rule out.

    Raises:
        ValueError: `compiled` is true, and the model is such a model, or `share` is false.
    """
    if not compiled:
        return
    if not share:
        raise ValueError(
            "decoding.compile needs whole weights in every process, which FSDP, DeepSpeed's stage 3 and tensor "
            "parallelism divide: leave it out"
        )
    if not (can_replace(model) and compiles(model)):
        raise ValueError(
            f"the steps of {type(model).__name__} cannot be compiled: decoding.compile needs a decoder-only model with "
            "network.attention document, without windows, recurrent layers, prefix and forced tokens; leave it out"
        )


def by_columns(sources: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """Return the places of prompts whose answers need a cache of the same size, the longest first.

    >>> by_columns([[5] * 20, [5] * 90, [5] * 30], max_new_tokens=10)
    [[1], [0, 2]]
    """
    groups: dict[int, list[int]] = {}
    for place, source in enumerate(sources):
        groups.setdefault(fixed_shape(1, len(source) + max_new_tokens)[1], []).append(place)
    return [groups[columns] for columns in sorted(groups, reverse=True)]


def all_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> list[int]:
    """Return the token ids that end an answer: those of model and tokenizer, and `ends`."""
    return list(dict.fromkeys([*end_tokens(model, tokenizer), *ends]))


def answer_texts(
    tokenizer: PreTrainedTokenizerBase, ids_RT: Tensor, ends: Sequence[int], stop: Sequence[str]
) -> list[str]:
    """Return the answer of each row of token ids: its text before an end token or a stop text."""
    rows = [before_end(row, ends) for row in ids_RT.tolist()]
    return [cut_at_stop(text, stop).strip() for text in texts_of_tokens(tokenizer, rows)]


def _generate_replacing(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    decodings: Sequence[Decoding],
    seeds: Sequence[int],
    budget: int,
    places: Sequence[int],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    ends: Sequence[int],
    **limits: Any,
) -> Iterator[tuple[int, list[list[str]]]]:
    """Do the same as ``generate``, without beams and for the prompts at these places.

    Waiting prompts fill up the batch when a quarter of it has ended.
    """
    draw, pad = DrawTokens(decodings, [], max_new_tokens, width=0), tokenizer.pad_token_id
    ender = StopTexts(tokenizer, stop, width=0) if stop else None
    limits |= {"max_new_tokens": max_new_tokens, "pad_token_id": pad, "ends": ends}
    waiting, fixed = deque(sorted(places, key=lambda place: -len(sources[place]))), None
    running: RunningPrompts
    if are_compiled(decodings):
        fixed, columns = fixed_shape(len(places), len(sources[waiting[0]]) + max_new_tokens)
        fixed = min(fixed, 2 ** max(int(math.log2(budget / (draw.rows * columns))), 0))
        running = CompiledPrompts(model, draw, stop=ender, places=fixed, columns=columns, **limits)
    else:
        running = RunningPrompts(model, draw, stop=ender, **limits)
    while waiting or running.prompts:
        if waiting:
            longest = max(len(sources[place]) for place in (*running.prompts, waiting[0]))
            room = fixed or max(budget // (draw.rows * (longest + max_new_tokens)), 1)
            free = room - len(running.prompts)
            if not running.prompts or free >= max(room // 4, 1):
                batch = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                ids, mask = pad_prompts([sources[place] for place in batch], pad, left=True)
                draw.add([seeds[place] for place in batch])
                running.add(batch, PromptCache(model, ids.to(model.device), mask.to(model.device), share=True))
        for place, ids in running.step():
            texts = iter(answer_texts(tokenizer, ids, ends, stop))
            yield place, [[next(texts) for _ in range(decoding.samples)] for decoding in decodings]
