"""Generation by transformers' ``generate``, where ended rows leave the batch; for any model."""

# R rows, T generated tokens

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..cache_names import CACHE
from ..encoder_outputs import encoder_rows
from ..prefixes import virtual_tokens
from .decoding import DrawTokens, StopTexts
from .prompt_cache import NEUTRAL, PromptCache, forces_tokens, new_token_limits, stated_decoding


class QuarterEnded(StoppingCriteria):
    """Stopping criterion that interrupts ``generate`` once a quarter of the rows have ended.

    Args:
        ends: Token ids that end a row.
        stop: Stop texts that end a row; None for none.

    Attributes:
        ended_R: Whether each row has ended.
    """

    def __init__(self, ends: Tensor, stop: StopTexts | None) -> None:
        self.ends, self.stop = ends, stop
        self.ended_R = torch.zeros((), dtype=torch.bool, device=ends.device)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        self.ended_R = self.ended_R | torch.isin(input_ids[:, -1], self.ends)
        if self.stop is not None:
            self.ended_R = self.ended_R | self.stop(input_ids, scores)
        return self.ended_R | (4 * self.ended_R.sum() >= len(self.ended_R))


def generate_remaining(
    prompts: PromptCache,
    draw: DrawTokens,
    *,
    stop: StopTexts | None,
    ends: Sequence[int],
    max_new_tokens: int,
    min_new_tokens: int,
    pad_token_id: int,
) -> Tensor:
    """Generate with transformers' ``generate``, which stops and resumes so that ended rows leave the batch.

    Whenever a quarter of the rows have ended, the others continue without them, with their part of the cache. The
    tokens are those of one uninterrupted call.

    Args:
        prompts: A padded batch of prompts.
        draw: Chooses the tokens, in ``draw.rows`` rows of each prompt.
        stop: Stop texts that end a row; None for none.
        ends: Token ids that end a row.
        max_new_tokens: Largest number of tokens of an answer, T.
        min_new_tokens: Number of tokens before which end tokens are excluded.
        pad_token_id: Token id that fills up rows that have ended.

    Returns:
        New token ids, int64 [R, at most T], ordered by prompt and then row of the prompt.
    """
    model, rows = prompts.model, draw.rows
    left, ended = torch.arange(len(prompts.input_ids) * rows), torch.tensor(ends, device=model.device)
    if len(left) == 1 or forces_tokens(model) or virtual_tokens(model):
        # Settings that force tokens count from the beginning of a call, and a prefix needs an empty cache.
        limits = {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens}
        return prompts.generate(rows, processors=[draw], stop=stop, ends=ends, pad_token_id=pad_token_id, **limits)
    ids_RT = torch.full((len(left), max_new_tokens), pad_token_id, device=model.device)
    inputs = {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask}
    inputs = {name: states.repeat_interleave(rows, dim=0) for name, states in inputs.items()}
    states, settings, done = prompts.states(rows), {**NEUTRAL, "eos_token_id": list(ends)}, 0
    if prompts.two_stacks:
        settings["decoder_start_token_id"] = model.config.decoder_start_token_id
    while True:
        limits = new_token_limits(max_new_tokens - done, min_new_tokens - done)
        quarter = QuarterEnded(ended, stop)
        with stated_decoding(model):
            output = model.generate(  # type: ignore[operator]
                **inputs,
                **states,
                generation_config=GenerationConfig(
                    **settings, **limits, pad_token_id=pad_token_id, return_dict_in_generate=True
                ),
                logits_processor=LogitsProcessorList([draw]),
                stopping_criteria=StoppingCriteriaList([quarter]),
            )
        new_RT = output.sequences[:, prompts.width + done :]
        ids_RT[left.to(model.device), done : done + new_RT.shape[1]] = new_RT
        done += new_RT.shape[1]
        kept = (~quarter.ended_R).nonzero().flatten()
        if done == max_new_tokens or not len(kept):
            return ids_RT
        left = left[kept.cpu()]
        draw.keep(kept)
        inputs, states = _continued(prompts, inputs, states, output, kept)


def _continued(
    prompts: PromptCache, inputs: dict[str, Tensor], states: dict[str, Any], output: Any, kept: Tensor
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the arguments of ``generate`` that continue the rows `kept` of an output."""
    sequences, mask = output.sequences[kept], inputs["attention_mask"][kept]
    further: dict[str, Any] = {}
    if _keeps_rows(cache := output.get(CACHE)):
        cache.batch_select_indices(kept)
        further[CACHE] = cache
    if prompts.two_stacks:
        further |= {"encoder_outputs": encoder_rows(states["encoder_outputs"], kept), "decoder_input_ids": sequences}
        # Without this mask, generate passes cached tokens again, and the cache has them twice.
        further["decoder_attention_mask"] = torch.ones_like(sequences)
        return {"input_ids": inputs["input_ids"][kept], "attention_mask": mask}, further
    new = mask.new_ones(len(kept), sequences.shape[1] - mask.shape[1])
    return {"input_ids": sequences, "attention_mask": torch.cat([mask, new], dim=1)}, further


def _keeps_rows(cache: Any) -> bool:
    """Return whether rows of a cache can be selected; with other caches, the tokens are processed again."""
    return isinstance(cache, EncoderDecoderCache | DynamicCache) and not any(cache.is_linear)
