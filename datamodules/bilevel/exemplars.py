"""The inputs of a learnable instruction: the text z of the instance, and the exemplars of an extractor."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ..rendering.prompts import with_full_stop
from ..rendering.special_tokens import truncating_tokenizer
from ..schema import Example
from ..splits import answered_texts


class InstructionInputs(NamedTuple):
    """The inputs from which the instructions of B inner instances are computed.

    Args:
        tasks: int64 [B], indices of their tasks among the inner tasks.
        pair_ids: int64 [B, P], tokens of z = (input, output) (Eq. 4 of arXiv 2306.10098).
        pair_mask: int64 [B, P], 0 at padding.
        exemplar_ids: int64 [B, N, C], tokens of N exemplars each; None if the instruction uses none.
        exemplar_mask: int64 [B, N, C], 0 at padding, and at all columns of an exemplar that is missing.
        head_ids: int64 [B, H], tokens before chosen demonstrations: bos and the definition; None without them.
        head_mask: int64 [B, H], 0 at padding.
        places: int64 [B], number of demonstrations that fit into the row; None without them.
    """

    tasks: Tensor
    pair_ids: Tensor
    pair_mask: Tensor
    exemplar_ids: Tensor | None = None
    exemplar_mask: Tensor | None = None
    head_ids: Tensor | None = None
    head_mask: Tensor | None = None
    places: Tensor | None = None


class TaskExemplar(NamedTuple):
    """An exemplar of a task: the id of its example, empty for a blank, and its text."""

    id: str
    text: str


@dataclass(frozen=True)
class ExemplarPools:
    """Draws the exemplars of an instance: training instances of its task with their targets.

    Args:
        exemplars: Number of exemplars, N.
        of: Whether the instances of a ``task`` share their exemplars, or every ``instance`` draws others.
        blanks: Whether all exemplars but the last are blank: as many attended padding tokens as the last one has
            tokens (the proof of concept of the paper's section 4.2).
        exclude_self: Whether an instance, and others with its text, are replaced by another one among its exemplars,
            which would contain its target.
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

    def repeats(self, task: str, examples: Sequence[Example]) -> bool:
        """Whether a task has fewer instances than are drawn, so that some are drawn again.

        Raises:
            ValueError: An instance of the task has no other instance to be its exemplar.
        """
        most = len(examples) - fewest_others(examples, examples) if self.exclude_self else 0
        if len(examples) == most:
            raise ValueError(
                f"task {task!r} has {len(examples)} training instances, and every other instance has the text of one "
                "of them, so that it has no exemplar: train on more instances, remove the task from the training "
                "list, or set exclude_self to false"
            )
        return len(examples) < self._real + most

    def fewest(self, pool: Sequence[Example], examples: Sequence[Example]) -> int:
        """The fewest different exemplars that an example of a task has, drawn from a pool."""
        return min(self._real, fewest_others(pool, examples) if self.exclude_self else len(pool))

    def draw(self, examples: Sequence[Example], example: Example) -> list[Example | None]:
        """The N exemplars of an example, None for a blank; a task with fewer instances repeats them in order.

        An excluded instance is replaced by one that is not drawn, or else by the first others again; without others,
        there are no exemplars.
        """
        order = self._order(example, len(examples))
        chosen = list(islice(cycle(order), self._real))
        if self.exclude_self:
            own = answered_texts(example)
            usable = [i for i in order if own.isdisjoint(answered_texts(examples[i]))]
            if not usable:
                return []
            others = cycle([i for i in usable if i not in chosen] + [i for i in usable if i in chosen])
            chosen = [i if i in usable else next(others) for i in chosen]
        return self._behind_blanks([examples[i] for i in chosen])

    def of_task(self, examples: Sequence[Example]) -> list[Example | None]:
        """The N exemplars that all instances of a task share, where none replaces an instance itself."""
        order = self._order(examples[0], len(examples)) if examples else []
        return self._behind_blanks([examples[i] for i in islice(cycle(order), self._real)])

    def _order(self, example: Example, size: int) -> list[int]:
        """The shuffled places of a task's examples: of every instance, or one for all."""
        key = (self.seed, "exemplars", example.task, example.id if self.of == "instance" else "")
        order = list(range(size))
        random.Random(hashlib.sha256(repr(key).encode()).digest()).shuffle(order)
        return order

    def _behind_blanks(self, chosen: list[Example]) -> list[Example | None]:
        return [*[None] * (self.exemplars - self._real), *chosen]

    @property
    def _real(self) -> int:
        return 1 if self.blanks else self.exemplars


def fewest_others(pool: Sequence[Example], examples: Sequence[Example]) -> int:
    """The fewest examples of a pool whose texts are not an example's, over the examples."""
    places: dict[str, set[int]] = defaultdict(set)
    for place, one in enumerate(pool):
        for text in answered_texts(one):
            places[text].add(place)
    return min(
        len(pool) - len(set().union(*(places[t] for t in answered_texts(one) if t in places))) for one in examples
    )


def pair_texts(example: Example, target: str | None) -> tuple[str, str]:
    """Input and output part of z; the output part is empty if the target is None."""
    return f"Input: {example.input.strip()}", "" if target is None else f" Output: {target}"


def exemplar_texts(example: Example, *, numbered: bool = False) -> tuple[str, str]:
    """Input and output part of an exemplar, worded as a demonstration of Tk-Instruct.

    Args:
        example: The solved example.
        numbered: Whether the heading is that of a prompt's first demonstration, "Positive Example 1 -".

    >>> exemplar_texts(Example("reverse", "a", 0, "c a f", ("f a c",)))
    (' Positive Example -\\nInput: c a f.\\n', ' Output: f a c.\\n\\n')
    """
    target = next(target for target in example.targets if target.strip())
    source, output = with_full_stop(f"Input: {example.input.strip()}"), with_full_stop(f" Output: {target.strip()}")
    heading = " Positive Example 1 -" if numbered else " Positive Example -"
    return f"{heading}\n{source}\n", f"{output}\n\n"


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], *, longest: int
) -> tuple[Tensor, Tensor]:
    """Tokens [n, P] of pairs of texts and their mask; pairs over `longest` tokens lose the end of their longer text."""
    with truncating_tokenizer(tokenizer, longest) as backend:
        encodings = backend.encode_batch_fast(list(pairs), add_special_tokens=False)
    rows = [torch.tensor(encoding.ids, dtype=torch.int64) for encoding in encodings]
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def encode_exemplars(
    tokenizer: PreTrainedTokenizerBase,
    exemplars: Sequence[Sequence[Example | None]],
    *,
    longest: int,
    numbered: bool = False,
) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, C] of exemplars and their mask; a blank is as long as the last exemplar of its row."""
    real = [example for row in exemplars for example in row if example is not None]
    pairs = [exemplar_texts(example, numbered=numbered) for example in real]
    ids_RC, mask_RC = encode_pairs(tokenizer, pairs, longest=longest)
    blank_C = torch.full_like(ids_RC[0], tokenizer.pad_token_id)
    ids, masks, first = [], [], 0
    for row in exemplars:
        indices = [first + sum(e is not None for e in row[:column]) for column in range(len(row))]
        first = indices[-1] + 1  # the last exemplar is never blank
        ids += [blank_C if e is None else ids_RC[i] for e, i in zip(row, indices, strict=True)]
        masks += [mask_RC[indices[-1] if e is None else i] for e, i in zip(row, indices, strict=True)]
    shape = (len(exemplars), len(exemplars[0]), ids_RC.shape[1])
    return torch.stack(ids).view(shape), torch.stack(masks).view(shape)
