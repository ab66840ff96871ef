"""Prompts that are answered in one batch: ended ones leave it, and waiting ones take their places."""

# P prompts, S samples of each, R = P * S rows, N nodes of each prompt, C cached columns, T generated tokens

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from ..cache_names import CACHE
from .decoding import DrawTokens, StopTexts
from .prompt_cache import PromptCache


class RunningPrompts:
    """Generates the answers to a batch of prompts, in which new prompts take the places of those that have ended.

    It is for decoders with document attention. Each sample of an answer is a row. Only samples that differ and have not
    ended are passed to the model: samples of a prompt with the same tokens so far are one node. The nodes of a prompt
    are columns of its row, each attending to the prompt and to its own past, so that no cache is copied for them.
    Prompts may be at different steps, since a cached token may be in any column. A greedy step reads the device once,
    to learn which prompts have ended.

    Args:
        model: A model for which ``can_share_cache`` is true and ``forces_tokens`` is false.
        draw: Chooses the tokens of each row. Call its ``add`` with the prompts' seeds before this object's ``add``.
        ends: Token ids that end a row.
        stop: Stop texts that end a row; None for none.
        max_new_tokens: Largest number of tokens of an answer.
        min_new_tokens: Number of tokens before which end tokens are excluded.
        pad_token_id: Token id that fills up rows that have ended.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        draw: DrawTokens,
        *,
        ends: Collection[int],
        stop: StopTexts | None,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        pad_token_id: int,
    ) -> None:
        self.model, self.draw, self.stop = model, draw, stop
        self.max_new_tokens, self.min_new_tokens, self.pad_token_id = max_new_tokens, min_new_tokens, pad_token_id
        self.ends = torch.tensor(list(ends), device=model.device)
        self.prompts: list[int] = []

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # as in answer_batch
    def add(self, prompts: Sequence[int], read: PromptCache) -> None:
        """Add prompts to the batch, beside those that are being answered.

        Args:
            prompts: A number for each prompt, different from those of all prompts that are being answered: ``step``
                names it by this, and ``finish`` sorts by it. ``self.draw.add`` must have been called with the prompts'
                seeds, in the same order.
            read: The prompts' tokens, padded on the left, with a cache of all but each prompt's last token.
        """
        cache, seen_PC = read.states(1)[CACHE], read.attention_mask.bool()
        device, before, rows = seen_PC.device, len(self.prompts), self.draw.rows
        place_PN, past_PNC, token_PN = (
            seen_PC.sum(dim=1, keepdim=True) - 1,
            seen_PC[:, None, :-1],
            read.input_ids[:, -1:],
        )
        row_R = torch.arange(len(prompts) * rows, device=device)
        step_P = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        ids_RT = torch.full((len(row_R), self.max_new_tokens), self.pad_token_id, device=device)
        if not before:
            self.cache, self.past_PNC, self.token_PN, self.place_PN = cache, past_PNC, token_PN, place_PN
            self.step_P, self.ids_RT, self.row_R, self.node_R = step_P, ids_RT, row_R, row_R // rows
        else:
            self._forget_unread_columns()
            append_rows(self.cache, cache)
            nodes, columns = self.token_PN.shape[1], max(self.past_PNC.shape[2], past_PNC.shape[2])
            earlier, later = (pad(past, (columns - past.shape[2], 0)) for past in (self.past_PNC, past_PNC))
            # A new prompt has one node, which is repeated without being read.
            self.past_PNC = torch.cat([earlier, later.expand(-1, nodes, -1)])
            self.token_PN = torch.cat([self.token_PN, token_PN.expand(-1, nodes)])
            self.place_PN = torch.cat([self.place_PN, place_PN.expand(-1, nodes)])
            self.step_P, self.ids_RT = torch.cat([self.step_P, step_P]), torch.cat([self.ids_RT, ids_RT])
            self.row_R = torch.cat([self.row_R, before * rows + row_R])
            self.node_R = torch.cat([self.node_R, (before + row_R // rows) * nodes])
        self.prompts += prompts

    def finish(self) -> Tensor:
        """Generate until all prompts have ended; return token ids [R, T] in the order of the prompts' numbers."""
        ended: dict[int, Tensor] = {}
        while self.prompts:
            ended |= self.step()
        return torch.cat([ended[prompt] for prompt in sorted(ended)])

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")
    def step(self) -> list[tuple[int, Tensor]]:
        """Generate one token in every row; return (number, token ids [S, T]) of the prompts that have ended with it."""
        nodes, rows = self.token_PN.shape[1], self.draw.rows
        self_NN = torch.eye(nodes, dtype=torch.bool, device=self.past_PNC.device)
        seen_PNC = torch.cat([self.past_PNC, self_NN.expand(len(self.prompts), -1, -1)], dim=2)
        logits: Tensor = self.model(
            input_ids=self.token_PN,
            attention_mask=seen_PNC[:, None],
            position_ids=self.place_PN,
            use_cache=True,
            **{CACHE: self.cache},
        ).logits.flatten(0, 1)
        logits = logits.to(torch.float32, copy=True)
        if self.min_new_tokens:
            early = (self.step_P < self.min_new_tokens).repeat_interleave(nodes)
            logits[:, self.ends] = logits[:, self.ends].masked_fill(early[:, None], -torch.inf)
        step_R = self.step_P[self.row_R // rows]
        chosen_R = self.draw.choose(step_R, logits, self.node_R, self.row_R)
        self.ids_RT[self.row_R, step_R] = chosen_R
        self.step_P = self.step_P + 1
        ended_R = torch.isin(chosen_R, self.ends) | (step_R + 1 == self.max_new_tokens)
        if self.stop is not None:
            ended_R |= self.stop.ended(self.ids_RT[self.row_R], step_R + 1)
        self.past_PNC = seen_PNC
        if rows == 1:
            self.token_PN, self.place_PN = chosen_R[:, None], self.place_PN + 1
        else:
            self._branch(chosen_R, ended_R, logits.shape[1])
        running = self._running(ended_R)
        gone = sorted(set(range(len(self.prompts))) - set(running))
        ended = [(self.prompts[place], self.ids_RT[place * rows : (place + 1) * rows]) for place in gone]
        if ended:
            self._keep(running)
        return ended

    def _running(self, ended_R: Tensor) -> list[int]:
        """Return the indices of prompts with a row that has not ended."""
        if self.draw.rows == 1:
            return [place for place, ended in enumerate(ended_R.tolist()) if not ended]
        return sorted(set((self.row_R // self.draw.rows).tolist()))

    def _branch(self, chosen_R: Tensor, ended_R: Tensor, vocabulary: int) -> None:
        """Make a node of every distinct text among the rows that have not ended."""
        self.row_R = self.row_R[~ended_R]
        if not len(self.row_R):
            return
        different, node_R = (self.node_R[~ended_R] * vocabulary + chosen_R[~ended_R]).unique(return_inverse=True)
        parent, token, nodes = different // vocabulary, different % vocabulary, self.token_PN.shape[1]
        spread, place = side_by_side(parent // nodes, len(self.prompts))
        parent_PN, self.token_PN, self.node_R = spread(parent % nodes), spread(token), place[node_R]
        self.past_PNC = self.past_PNC.gather(1, parent_PN[:, :, None].expand(-1, -1, self.past_PNC.shape[2]))
        self.place_PN = self.place_PN.gather(1, parent_PN) + 1

    def _keep(self, places: Sequence[int]) -> None:
        """Drop all prompts but those at these indices."""
        rows, nodes, device = self.draw.rows, self.token_PN.shape[1], self.past_PNC.device
        self.prompts = [self.prompts[place] for place in places]
        if not places:
            self.draw.keep(torch.tensor([], dtype=torch.int64))
            return
        kept_P = torch.tensor(places)
        kept_R = (kept_P[:, None] * rows + torch.arange(rows)).flatten()
        self.draw.keep(kept_R)
        now_P = torch.zeros(int(kept_P.max()) + 1, dtype=torch.int64)
        now_P[kept_P] = torch.arange(len(places))
        kept_P, kept_R, now_P = (indices.to(device, non_blocking=True) for indices in (kept_P, kept_R, now_P))
        if rows == 1:
            self.row_R = self.node_R = torch.arange(len(places), device=device)
        else:
            self.node_R = now_P[self.node_R // nodes] * nodes + self.node_R % nodes
            self.row_R = now_P[self.row_R // rows] * rows + self.row_R % rows
        self.cache.batch_select_indices(kept_P)
        self.past_PNC, self.token_PN, self.place_PN = (
            states[kept_P] for states in (self.past_PNC, self.token_PN, self.place_PN)
        )
        self.step_P, self.ids_RT = self.step_P[kept_P], self.ids_RT[kept_R]

    def _forget_unread_columns(self) -> None:
        """Drop cached columns that no node attends to, such as those of ended prompts."""
        columns = self.past_PNC.any(dim=0).any(dim=0).nonzero().flatten()
        if len(columns) < self.past_PNC.shape[2]:
            self.past_PNC = self.past_PNC[:, :, columns]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, columns], layer.values[:, :, columns]


def append_rows(cache: DynamicCache, other: DynamicCache) -> None:
    """Append the rows of another cache, in place; the shorter cache gets columns of zeros in front."""
    layers: Iterator[tuple[Any, Any]] = zip(cache.layers, other.layers, strict=True)
    for layer, added in layers:
        columns = max(layer.keys.shape[2], added.keys.shape[2])
        layer.keys, layer.values = (
            torch.cat([pad(states, (0, 0, columns - states.shape[2], 0)) for states in pair])
            for pair in ((layer.keys, added.keys), (layer.values, added.values))
        )


def side_by_side(row: Tensor, rows: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Lay out items in an array [rows, columns], those of the same row side by side.

    Args:
        row: Row of each item, in ascending order.
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
