"""Prompt caching: a prompt is processed once for all of its samples, and a common prefix once for all prompts."""

# B prompts, L columns

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from ..attention.document_attention import IMPLEMENTATIONS
from ..attention.recurrent_layers import reads_documents_alone
from ..cache_names import CACHE
from ..encoder_outputs import encoder_rows
from ..prefixes import virtual_tokens

NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""Settings of ``generate`` that others add to."""


FORCED = (
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "watermarking_config",
)
"""Settings of generation_config that force or suppress tokens: they remain in force, and no others."""


class PromptCache:
    """A padded batch of prompts that the model processes once, for all samples or beams of each prompt.

    The encoder's states, or the decoder's cache, are kept and repeated for them. The cache leaves out each prompt's
    last token, which is processed again to get the first logits.

    Args:
        model: Causal or encoder-decoder model.
        input_ids: [B, L], padded on the left; for an encoder, on the right.
        attention_mask: [B, L], 0 at padding.
        share: Process the common prefix of all prompts, such as a task's definition, once, and the common beginning of
            samples, too (``RunningPrompts``). The number of forward passes then depends on the texts, so it must be
            False under sharded strategies. Ignored for models whose cache does not allow it (``can_share_cache``).
    """

    def __init__(
        self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, *, share: bool = False
    ) -> None:
        self.model, self.input_ids, self.attention_mask = model, input_ids, attention_mask
        self.two_stacks = model.config.is_encoder_decoder
        self._read: Any = None
        self.share = share and can_share_cache(model)
        if self.share and input_ids.shape[1] == 1:  # a column of padding, so that there is a cache to continue
            input_ids, attention_mask = pad(input_ids, (1, 0)), pad(attention_mask, (1, 0))
            self.input_ids, self.attention_mask = input_ids, attention_mask
        # Columns before the answer; an encoder-decoder's answer follows its start token.
        self.width = 1 if self.two_stacks else input_ids.shape[1]
        self.shared = shared_prefix_length(input_ids, attention_mask) if self.share else 0
        if self.shared:
            self.input_ids, self.attention_mask = move_padding_after_prefix(input_ids, attention_mask, self.shared)

    def generate(
        self,
        rows: int,
        *,
        processors: Sequence[Any] = (),
        stop: Any = None,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        ends: Sequence[int],
        pad_token_id: int | None,
        beams: int = 1,
        best: int = 1,
    ) -> Tensor:
        """Return new token ids [R, T] by one call of transformers' ``generate``, ordered by prompt and then sequence.

        Args:
            rows: Number of sequences of each prompt; 1 with beams.
            processors: Logits processors.
            stop: Stopping criterion for sequences without an end token; None for none.
            max_new_tokens: Largest number of tokens of a sequence.
            min_new_tokens: Number of tokens before which end tokens are excluded.
            ends: Token ids that end a sequence.
            pad_token_id: Token id that fills up sequences that have ended; None for transformers' choice.
            beams: Width of beam search; 1 for none.
            best: Number of sequences to return from each beam search.
        """
        limits = new_token_limits(max_new_tokens, min_new_tokens)
        settings = {**NEUTRAL, **limits, "eos_token_id": list(ends), "pad_token_id": pad_token_id, "num_beams": beams}
        if self.two_stacks:
            settings["decoder_start_token_id"] = self.model.config.decoder_start_token_id
        states = self.states(rows, beams)
        with stated_decoding(self.model):
            ids = self.model.generate(  # type: ignore[operator]
                self.input_ids.repeat_interleave(rows, dim=0),
                attention_mask=self.attention_mask.repeat_interleave(rows, dim=0),
                generation_config=GenerationConfig(**settings, num_return_sequences=best),
                logits_processor=LogitsProcessorList(processors),
                stopping_criteria=StoppingCriteriaList([] if stop is None else [stop]),
                **states,
            )
        return ids[:, self.width :]

    def states(self, rows: int, beams: int = 1) -> dict[str, Any]:
        """Return keyword arguments of transformers' ``generate`` that keep it from processing the prompts again.

        They hold the encoder's states or a copy of the decoder's cache, repeated for `rows` sequences of each prompt
        and `beams` beams. They are empty where there is nothing to reuse.
        """
        if self.two_stacks:
            if self._read is None:
                encoder: Any = self.model.get_encoder()
                self._read = encoder(self.input_ids, attention_mask=self.attention_mask)
            prompts = torch.arange(len(self.input_ids), device=self.input_ids.device)
            return {"encoder_outputs": encoder_rows(self._read, prompts.repeat_interleave(rows))}
        if self.width == 1 or (rows * beams == 1 and not self.share) or virtual_tokens(self.model):
            return {}  # a prefix needs an empty cache
        if self._read is None:
            self._read = self._cache()
        if not isinstance(self._read, DynamicCache):  # a state-space model has another kind of cache
            return {}
        cache = copy.deepcopy(self._read)
        cache.batch_repeat_interleave(rows * beams)  # generate repeats prompts for its beams, but not the cache
        return {CACHE: cache}

    def _cache(self) -> Any:
        """Return the cache of the prompts without their last tokens."""
        if not self.shared:
            return self._after(self.input_ids[:, :-1])
        common = self._after(self.input_ids[:1, : self.shared])
        common.batch_repeat_interleave(len(self.input_ids))
        if self.shared == self.width - 1:
            return common
        return self._after(self.input_ids[:, :-1], common)

    def _after(self, input_ids: Tensor, earlier: DynamicCache | None = None) -> Any:
        """Return the cache behind these columns; those in `earlier` are in it already."""
        mask = self.attention_mask[: len(input_ids), : input_ids.shape[1]]
        if self.share:  # generate would warn of padding at the end
            cache = DynamicCache(config=self.model.config) if earlier is None else earlier
            first, places = cache.get_seq_length(), (mask.cumsum(dim=1) - 1).clamp(min=0)
            inputs = {"input_ids": input_ids[:, first:], "position_ids": places[:, first:], "attention_mask": mask}
            self.model(**inputs, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
            return cache
        # Generating one token is the public way to a cache with the right positions.
        settings = GenerationConfig(**NEUTRAL, pad_token_id=0, max_new_tokens=1, return_dict_in_generate=True)
        with stated_decoding(self.model):
            return self.model.generate(  # type: ignore[operator]
                input_ids, attention_mask=mask, generation_config=settings
            ).get(CACHE)


def new_token_limits(most: int, fewest: int) -> dict[str, int]:
    """Return the settings of transformers' ``generate`` for at least `fewest` and at most `most` new tokens.

    A published min_length counts the prompt, too. It is set to 0 unless min_new_tokens replaces it.

    >>> new_token_limits(8, 2), new_token_limits(8, 0)
    ({'max_new_tokens': 8, 'min_new_tokens': 2}, {'max_new_tokens': 8, 'min_length': 0})
    """
    return {"max_new_tokens": most, **({"min_new_tokens": fewest} if fewest > 0 else {"min_length": 0})}


def can_share_cache(model: PreTrainedModel) -> bool:
    """Return whether a model's cached tokens may be in any column, so that prompts at different steps share a batch.

    This is so for a decoder with document attention and without window, recurrent state or prefix: such models take
    positions from ``position_ids``, never from the column.
    """
    config = model.config
    if config.is_encoder_decoder or config._attn_implementation not in IMPLEMENTATIONS or virtual_tokens(model):
        return False
    if any(map(reads_documents_alone, model.modules())):
        return False
    return not any(DynamicCache(config=config).is_sliding)


@contextmanager
def stated_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, hide a model's generation_config from ``generate``, except settings that force tokens.

    transformers fills in what a call leaves open from the published settings, e.g. stop texts, guidance, a static cache
    or a number of sequences. Here an answer depends on the settings of ``Decoding`` alone.
    """
    published = model.generation_config
    forced = {name: value for name in FORCED if (value := getattr(published, name, None)) is not None}
    model.generation_config = GenerationConfig(**forced)
    try:
        yield
    finally:
        model.generation_config = published


def forces_tokens(model: PreTrainedModel) -> bool:
    """Return whether generation_config forces or suppresses tokens, which only transformers' ``generate`` supports."""
    settings = model.generation_config
    return settings is not None and any(getattr(settings, name, None) for name in FORCED)


def shared_prefix_length(input_ids: Tensor, attention_mask: Tensor) -> int:
    """Return the length of the common prefix of left-padded prompts, without any prompt's last token.

    >>> shared_prefix_length(torch.tensor([[0, 7, 8, 9], [7, 8, 5, 6]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]))
    2
    """
    if len(input_ids) == 1:
        return 0
    lengths = attention_mask.sum(dim=1)
    first = input_ids.shape[1] - lengths
    heads = input_ids.gather(1, first[:, None] + torch.arange(int(lengths.min()) - 1, device=first.device))
    return int((heads == heads[:1]).all(dim=0).cumprod(dim=0).sum())


def move_padding_after_prefix(input_ids: Tensor, attention_mask: Tensor, shared: int) -> tuple[Tensor, Tensor]:
    """Return left-padded prompts and their mask, with padding moved behind their common prefix of `shared` tokens.

    >>> ids, mask = torch.tensor([[0, 7, 8, 9], [7, 8, 5, 6]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    >>> move_padding_after_prefix(ids, mask, 2)
    (tensor([[7, 8, 0, 9],
            [7, 8, 5, 6]]), tensor([[1, 1, 0, 1],
            [1, 1, 1, 1]]))
    """
    first = input_ids.shape[1] - attention_mask.sum(dim=1, keepdim=True)
    place = torch.arange(input_ids.shape[1], device=first.device) - first  # in its prompt; padding is negative
    order = torch.where(place < 0, 1, torch.where(place < shared, 0, 2)).argsort(dim=1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)
