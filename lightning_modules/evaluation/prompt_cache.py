"""PromptCache read once, however often they are continued, and what they have in common once for all of them."""

# B prompts, L columns

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from ..attention.document_attention import IMPLEMENTATIONS
from ..prefixes import virtual_tokens

NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""What a model's own generation_config would decide in silence; the tokens it forces or suppresses stay its own."""


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
"""Of these, ``NEUTRAL`` switches none off."""

Choose = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(step, logits [N, V], the node of each row [R], the rows' numbers [R]) -> their tokens [R]."""


class PromptCache:
    """A padded batch of prompts, read once however often it is continued.

    An encoder's states and a decoder's cache serve every continuation. The cache leaves out each prompt's last token,
    which a continuation reads again to get its logits.

    Args:
        model: Causal or encoder-decoder.
        input_ids: [B, L], padded on the left, or on the right for an encoder.
        attention_mask: [B, L].
        share: Read the tokens that all prompts begin with, such as a task's definition, once for all of them, and the
            same for what samples begin with. How often the model is called then depends on the texts: not where
            several processes must call it equally often. Only models whose cache allows it share (``can_share_cache``).
    """

    def __init__(
        self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, *, share: bool = False
    ) -> None:
        self.model, self.input_ids, self.attention_mask = model, input_ids, attention_mask
        self.two_stacks = model.config.is_encoder_decoder
        # Where an answer begins: an encoder-decoder's stands alone, behind its start token.
        self.width = 1 if self.two_stacks else input_ids.shape[1]
        self._read: Any = None
        self.share = share and can_share_cache(model)
        self.shared = shared_prefix_length(input_ids, attention_mask) if self.share else 0
        if self.shared:
            self.input_ids, self.attention_mask = move_padding_after_prefix(input_ids, attention_mask, self.shared)

    def continued(
        self, rows: int, *, processors: Sequence[Any] = (), enders: Sequence[Any] = (), **options: Any
    ) -> Tensor:
        """New token ids: `rows` sequences (or those of the beam) of a prompt after those of the one before it."""
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

    def drawn(
        self,
        rows: int,
        choose: Choose,
        *,
        enders: Sequence[Any],
        max_new_tokens: int,
        eos_token_id: int,
        pad_token_id: int,
        min_new_tokens: int = 0,
        **_: Any,
    ) -> Tensor | None:
        """What ``continued`` returns, by a loop of our own; None where it cannot be had so.

        The model is called for what is different and goes on: samples of a prompt that wrote the same tokens so far are
        one node, and a sample that has ended is none. Nodes of a prompt stand side by side in its row, each reading the
        prompt and its own past, so that no cache is copied. `enders` are given the new tokens alone.
        """
        if not self.share or self.width == 1 or forces_tokens(self.model):
            return None
        cache, seen_BNC = self._states(1, 1)["past_key_values"], self.attention_mask.bool()[:, None]
        row_R = torch.arange(rows * len(seen_BNC), device=seen_BNC.device)
        node_R = row_R // rows
        token_BN, place_BN = self.input_ids[:, -1:], self.attention_mask.sum(dim=1, keepdim=True) - 1
        ids = torch.full((len(row_R), max_new_tokens), pad_token_id, device=seen_BNC.device)
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
                logits[:, eos_token_id] = -torch.inf
            chosen_R = choose(step, logits, node_R, row_R)
            ids[row_R, step] = chosen_R
            on = chosen_R != eos_token_id
            for ended in enders:
                on &= ~ended(ids[row_R, : step + 1], None)
            if step + 1 == max_new_tokens or not on.any():
                break
            row_R = row_R[on]
            different, node_R = (node_R[on] * logits.shape[1] + chosen_R[on]).unique(return_inverse=True)
            parent, token = different // logits.shape[1], different % logits.shape[1]
            spread, place = side_by_side(parent // token_BN.shape[1], len(token_BN))
            parent_BN, token_BN, node_R = spread(parent % token_BN.shape[1]), spread(token), place[node_R]
            own_NN = torch.eye(token_BN.shape[1], dtype=torch.bool, device=seen_BNC.device)
            past_BNC = seen_BNC.gather(1, parent_BN[:, :, None].expand(-1, -1, seen_BNC.shape[2]))
            seen_BNC = torch.cat([past_BNC, own_NN.expand(len(past_BNC), -1, -1)], dim=2)
            place_BN = place_BN.gather(1, parent_BN) + 1
        return ids

    def _states(self, rows: int, beams: int) -> dict[str, Any]:
        """What ``generate`` need not compute again."""
        if self.two_stacks:
            if self._read is None:
                encoder: Any = self.model.get_encoder()
                self._read = encoder(self.input_ids, attention_mask=self.attention_mask).last_hidden_state
            return {"encoder_outputs": BaseModelOutput(self._read.repeat_interleave(rows, dim=0))}
        if self.width == 1 or (rows * beams == 1 and not self.share) or virtual_tokens(self.model):
            return {}  # a prefix fills an empty cache alone
        if self._read is None:
            self._read = self._cache()
        if not isinstance(self._read, DynamicCache):  # a state-space model keeps something else
            return {}
        cache = copy.deepcopy(self._read)
        cache.batch_repeat_interleave(rows * beams)  # generate repeats prompts for its beams, but no cache
        return {"past_key_values": cache}

    def _cache(self) -> Any:
        """Of the prompts without their last tokens."""
        if not self.shared:
            return self._after(self.input_ids[:, :-1])
        common = self._after(self.input_ids[:1, : self.shared])
        common.batch_repeat_interleave(len(self.input_ids))
        if self.shared == self.width - 1:
            return common
        return self._after(self.input_ids[:, :-1], past_key_values=common)

    def _after(self, input_ids: Tensor, **past: Any) -> Any:
        # One token more: the public way to a cache with the right positions.
        return self.model.generate(  # type: ignore[operator]
            input_ids,
            attention_mask=self.attention_mask[: len(input_ids), : input_ids.shape[1]],
            generation_config=GenerationConfig(
                **NEUTRAL, pad_token_id=0, max_new_tokens=1, return_dict_in_generate=True
            ),
            **past,
        ).get("past_key_values")


def side_by_side(row: Tensor, rows: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Put items into the rows they belong to, one after another; `row` is sorted.

    Returns:
        A function that turns values of the items into [rows, columns], 0 where there is no item; and each item's place
        in it, flattened.

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
    """Whether a cached token is worth the same in any column: a decoder with document attention, no window, no prefix.

    Models that can have document attention take positions from what they are given, and never from the column.
    """
    config = model.config
    if config.is_encoder_decoder or config._attn_implementation not in IMPLEMENTATIONS or virtual_tokens(model):
        return False
    if getattr(model.generation_config, "cache_implementation", None) not in (None, "dynamic"):
        return False
    return not any(DynamicCache(config=config).is_sliding)


def forces_tokens(model: PreTrainedModel) -> bool:
    """Whether a model's own generation_config forces or suppresses tokens, which ``generate`` of transformers heeds."""
    own = model.generation_config
    return own is not None and any(getattr(own, name, None) for name in FORCED)


def shared_prefix_length(input_ids: Tensor, attention_mask: Tensor) -> int:
    """How many tokens all of several left-padded prompts begin with; the last token of a prompt is its own.

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
    """Left-padded prompts with their padding behind the `shared` tokens that all begin with.

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
