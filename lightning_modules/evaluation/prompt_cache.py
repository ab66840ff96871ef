"""Caching prompts: a prompt is read once for all of its continuations, and a common prefix once for all prompts."""

# B prompts, L columns

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from ..attention.document_attention import IMPLEMENTATIONS
from ..attention.recurrent_layers import reads_documents_alone
from ..prefixes import virtual_tokens

NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""Settings that override the model's generation_config; tokens that it forces or suppresses remain in force."""


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
"""Settings of generation_config that force or suppress tokens; ``NEUTRAL`` overrides none of them."""

Choose = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(step, logits [N, V] of nodes, node of each row [R], number of each row [R]) -> token ids [R], see ``DrawTokens``."""


class PromptCache:
    """A padded batch of prompts that is read once for all of its continuations.

    All continuations share the encoder's states or the decoder's cache. The cache leaves out each prompt's last token,
    which a continuation reads again to get its logits.

    Args:
        model: Causal or encoder-decoder.
        input_ids: [B, L], padded on the left, or on the right for an encoder.
        attention_mask: [B, L].
        share: Read the common prefix of all prompts, such as a task's definition, once for all of them, and the common
            beginning of samples, too. The number of forward passes then depends on the texts, so it must be False
            under sharded strategies. Without effect for models whose cache does not allow it (``can_share_cache``).
    """

    def __init__(
        self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, *, share: bool = False
    ) -> None:
        self.model, self.input_ids, self.attention_mask = model, input_ids, attention_mask
        self.two_stacks = model.config.is_encoder_decoder
        # Columns before the answer; an encoder-decoder's answer follows its start token.
        self.width = 1 if self.two_stacks else input_ids.shape[1]
        self._read: Any = None
        self.share = share and can_share_cache(model)
        self.shared = shared_prefix_length(input_ids, attention_mask) if self.share else 0
        if self.shared:
            self.input_ids, self.attention_mask = move_padding_after_prefix(input_ids, attention_mask, self.shared)

    def generate(
        self, rows: int, *, processors: Sequence[Any] = (), enders: Sequence[Any] = (), **options: Any
    ) -> Tensor:
        """New token ids by ``generate`` of transformers: `rows` sequences or beams of a prompt, prompt after prompt."""
        settings = {**NEUTRAL, **options}
        if self.two_stacks:
            settings["decoder_start_token_id"] = self.model.config.decoder_start_token_id
        ids = self.model.generate(  # type: ignore[operator]
            self.input_ids.repeat_interleave(rows, dim=0),
            attention_mask=self.attention_mask.repeat_interleave(rows, dim=0),
            generation_config=GenerationConfig(**settings),
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList(enders),
            **self._states(rows, settings["num_beams"]),
        )
        return ids[:, self.width :]

    def sample(
        self,
        rows: int,
        choose: Choose,
        *,
        enders: Sequence[Any],
        max_new_tokens: int,
        eos_token_id: Sequence[int],
        pad_token_id: int,
        min_new_tokens: int = 0,
        **_: Any,
    ) -> Tensor | None:
        """The same as ``generate`` without beams, faster, by our own loop; None if the model does not allow it.

        Only samples that differ and have not ended are passed to the model: samples of a prompt with the same tokens so
        far are one node. The nodes of a prompt are columns of its row, each attending to the prompt and to its own
        past, so that no cache is copied. `enders` get the new tokens only.
        """
        if not self.share or self.width == 1 or forces_tokens(self.model):
            return None
        cache, seen_BNC = self._states(1, 1)["past_key_values"], self.attention_mask.bool()[:, None]
        row_R = torch.arange(rows * len(seen_BNC), device=seen_BNC.device)
        node_R = row_R // rows
        token_BN, place_BN = self.input_ids[:, -1:], self.attention_mask.sum(dim=1, keepdim=True) - 1
        ids = torch.full((len(row_R), max_new_tokens), pad_token_id, device=seen_BNC.device)
        ends = torch.tensor(eos_token_id, device=seen_BNC.device)
        for step in range(max_new_tokens):
            logits: Tensor = self.model(
                input_ids=token_BN,
                attention_mask=seen_BNC[:, None],
                position_ids=place_BN,
                past_key_values=cache,
                use_cache=True,
            ).logits.flatten(0, 1)
            logits = logits.to(torch.float32, copy=True)
            if step < min_new_tokens:
                logits[:, ends] = -torch.inf
            chosen_R = choose(step, logits, node_R, row_R)
            ids[row_R, step] = chosen_R
            running = ~torch.isin(chosen_R, ends)
            for ended in enders:
                running &= ~ended(ids[row_R, : step + 1], None)
            if step + 1 == max_new_tokens or not running.any():
                break
            row_R = row_R[running]
            different, node_R = (node_R[running] * logits.shape[1] + chosen_R[running]).unique(return_inverse=True)
            parent, token = different // logits.shape[1], different % logits.shape[1]
            spread, place = side_by_side(parent // token_BN.shape[1], len(token_BN))
            parent_BN, token_BN, node_R = spread(parent % token_BN.shape[1]), spread(token), place[node_R]
            self_NN = torch.eye(token_BN.shape[1], dtype=torch.bool, device=seen_BNC.device)
            past_BNC = seen_BNC.gather(1, parent_BN[:, :, None].expand(-1, -1, seen_BNC.shape[2]))
            seen_BNC = torch.cat([past_BNC, self_NN.expand(len(past_BNC), -1, -1)], dim=2)
            place_BN = place_BN.gather(1, parent_BN) + 1
        return ids

    def _states(self, rows: int, beams: int) -> dict[str, Any]:
        """Arguments of ``generate`` with the encoder's states, or with a copy of the decoder's cache."""
        if self.two_stacks:
            if self._read is None:
                encoder: Any = self.model.get_encoder()
                self._read = encoder(self.input_ids, attention_mask=self.attention_mask).last_hidden_state
            return {"encoder_outputs": BaseModelOutput(self._read.repeat_interleave(rows, dim=0))}
        if self.width == 1 or (rows * beams == 1 and not self.share) or virtual_tokens(self.model):
            return {}  # a prefix needs an empty cache
        if self._read is None:
            self._read = self._cache()
        if not isinstance(self._read, DynamicCache):  # a state-space model has another kind of cache
            return {}
        cache = copy.deepcopy(self._read)
        cache.batch_repeat_interleave(rows * beams)  # generate repeats prompts for its beams, but not the cache
        return {"past_key_values": cache}

    def _cache(self) -> Any:
        """The cache of the prompts without their last tokens."""
        if not self.shared:
            return self._after(self.input_ids[:, :-1])
        common = self._after(self.input_ids[:1, : self.shared])
        common.batch_repeat_interleave(len(self.input_ids))
        if self.shared == self.width - 1:
            return common
        return self._after(self.input_ids[:, :-1], past_key_values=common)

    def _after(self, input_ids: Tensor, **past: Any) -> Any:
        # Generating one token is the public way to a cache with the right positions.
        return self.model.generate(  # type: ignore[operator]
            input_ids,
            attention_mask=self.attention_mask[: len(input_ids), : input_ids.shape[1]],
            generation_config=GenerationConfig(
                **NEUTRAL, pad_token_id=0, max_new_tokens=1, return_dict_in_generate=True
            ),
            **past,
        ).get("past_key_values")


def side_by_side(row: Tensor, rows: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Arrange items side by side in their rows.

    Args:
        row: The row of each item, sorted.
        rows: Number of rows.

    Returns:
        A function that arranges values of the items as [rows, columns], filled up with 0; and each item's place in
        that array, flattened.

    >>> spread, place = side_by_side(torch.tensor([0, 0, 2]), 3)
    >>> spread(torch.tensor([7, 8, 9])), place
    (tensor([[7, 8],
            [0, 0],
            [9, 0]]), tensor([0, 1, 4]))
    """
    counts = row.bincount(minlength=rows)
    columns = int(counts.max())
    place = row * columns + torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    return lambda values: values.new_zeros(rows * columns).scatter(0, place, values).view(rows, columns), place


def can_share_cache(model: PreTrainedModel) -> bool:
    """Whether a cached token may be in any column: a decoder with document attention, without window, state or prefix.

    Models with document attention take positions from ``position_ids``, never from the column.
    """
    config = model.config
    if config.is_encoder_decoder or config._attn_implementation not in IMPLEMENTATIONS or virtual_tokens(model):
        return False
    if getattr(model.generation_config, "cache_implementation", None) not in (None, "dynamic"):
        return False
    if any(map(reads_documents_alone, model.modules())):
        return False
    return not any(DynamicCache(config=config).is_sliding)


def forces_tokens(model: PreTrainedModel) -> bool:
    """Whether a model's generation_config forces or suppresses tokens, which only ``generate`` of transformers does."""
    settings = model.generation_config
    return settings is not None and any(getattr(settings, name, None) for name in FORCED)


def shared_prefix_length(input_ids: Tensor, attention_mask: Tensor) -> int:
    """Length of the common prefix of left-padded prompts, without any prompt's last token.

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
    """Left-padded prompts with their padding moved behind their common prefix of `shared` tokens.

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
