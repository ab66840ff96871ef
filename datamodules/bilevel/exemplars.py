"""What a learnable instruction is made from: the instance's own text z, and the exemplars it may choose among."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..rendering.prompts import sentence
from ..schema import Example


class InstructionInputs(NamedTuple):
    """What the instructions of B inner instances are computed from.

    Args:
        tasks: int64 [B], places of their tasks among the inner tasks.
        pair_ids: int64 [B, P], tokens of z = (input, output) (Eq. 4 of arXiv 2306.10098).
        pair_mask: int64 [B, P], 0 at padding.
        exemplar_ids: int64 [B, N, C], tokens of N exemplars each; None where nothing chooses among exemplars.
        exemplar_mask: int64 [B, N, C], 0 at padding.
    """

    tasks: Tensor
    pair_ids: Tensor
    pair_mask: Tensor
    exemplar_ids: Tensor | None = None
    exemplar_mask: Tensor | None = None


@dataclass(frozen=True)
class ExemplarPools:
    """Draws the exemplars of each instance: solved instances of its task, from among those that train.

    Args:
        exemplars: Exemplars to choose among, N.
        of: Whether the instances of a ``task`` share their exemplars or each ``instance`` has its own.
        blanks: All exemplars but the last are blank: padding, as many tokens as the one real exemplar has, and read
            like it (the proof of concept of the paper's section 4.2).
        exclude_self: Whether an instance's own place among the exemplars goes to a further exemplar. Without, it may
            find its own answer there.
        seed: Another seed draws other exemplars.
    """

    exemplars: int = 32
    of: Literal["task", "instance"] = "task"
    blanks: bool = False
    exclude_self: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        least = 2 if self.blanks else 1
        if self.exemplars < least:
            raise ValueError(f"exemplars must be at least {least}, got {self.exemplars}")

    def require(self, task: str, instances: int) -> None:
        """Refuse a task with too few instances.

        Raises:
            ValueError: With both numbers.
        """
        needed = self._real + self.exclude_self
        if instances < needed:
            own = " and one in place of the instance itself" if self.exclude_self else ""
            raise ValueError(
                f"task {task!r} has {instances} training instances, and {self._real} exemplars are to be drawn from "
                f"them{own}: ask for fewer exemplars, or train on more instances"
            )

    def draw(self, examples: Sequence[Example], own: int) -> list[Example | None]:
        """The N exemplars of ``examples[own]``, None for a blank one."""
        mine = examples[own]
        key = (self.seed, "exemplars", mine.task, mine.id if self.of == "instance" else "")
        places = list(range(len(examples)))
        random.Random(hashlib.sha256(repr(key).encode()).digest()).shuffle(places)
        chosen, spare = places[: self._real], places[self._real :]
        if self.exclude_self and own in chosen:
            chosen[chosen.index(own)] = spare[0]
        blank: list[Example | None] = [None] * (self.exemplars - self._real)
        return [*blank, *(examples[place] for place in chosen)]

    @property
    def _real(self) -> int:
        return 1 if self.blanks else self.exemplars


def pair_texts(example: Example, target: str | None) -> tuple[str, str]:
    """Both halves of z; the second is empty without a target."""
    return f"Input: {example.input.strip()}", "" if target is None else f" Output: {target}"


def exemplar_texts(example: Example) -> tuple[str, str]:
    """Both halves of an exemplar, worded as in Tk-Instruct but without a number.

    >>> exemplar_texts(Example("reverse", "a", 0, "c a f", ("f a c",)))
    (' Positive Example -\\nInput: c a f.\\n', ' Output: f a c.\\n\\n')
    """
    target = next(target for target in example.targets if target.strip())
    asked, answered = sentence(f"Input: {example.input.strip()}"), sentence(f" Output: {target.strip()}")
    return f" Positive Example -\n{asked}\n", f"{answered}\n\n"


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], *, longest: int
) -> tuple[Tensor, Tensor]:
    """Tokens [n, longest of them] of pairs of texts, and their mask; a long pair loses ends of its longer text."""
    firsts, seconds = map(list, zip(*pairs, strict=True))
    encoded = tokenizer(
        firsts,
        seconds,
        add_special_tokens=False,
        truncation="longest_first",
        max_length=longest,
        padding=True,
        padding_side="right",
        return_tensors="pt",
        verbose=False,
    )
    return encoded["input_ids"], encoded["attention_mask"]


def encode_exemplars(
    tokenizer: PreTrainedTokenizerBase, exemplars: Sequence[Sequence[Example | None]], *, longest: int
) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, C] and their mask; a blank is as long as the last exemplar of its row."""
    real = [example for row in exemplars for example in row if example is not None]
    ids_RC, mask_RC = encode_pairs(tokenizer, [exemplar_texts(example) for example in real], longest=longest)
    blank_C = torch.full_like(ids_RC[0], tokenizer.pad_token_id)
    ids, masks, place = [], [], 0
    for row in exemplars:
        there = [place + sum(e is not None for e in row[:column]) for column in range(len(row))]
        place = there[-1] + 1  # the last exemplar is never blank
        ids += [blank_C if e is None else ids_RC[at] for e, at in zip(row, there, strict=True)]
        masks += [mask_RC[there[-1] if e is None else at] for e, at in zip(row, there, strict=True)]
    shape = (len(exemplars), len(exemplars[0]), ids_RC.shape[1])
    return torch.stack(ids).view(shape), torch.stack(masks).view(shape)
