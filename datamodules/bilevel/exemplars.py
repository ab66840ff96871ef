"""Inputs of learnable instructions: the text z of an instance, and the exemplars that an extractor chooses among."""

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

from ..messages import counted
from ..rendering.prompts import with_full_stop
from ..rendering.special_tokens import truncating_tokenizer
from ..schema import Example
from ..splits import answered_texts


class InstructionInputs(NamedTuple):
    """Inputs from which a module computes the learnable instructions of B training instances.

    Args:
        tasks: int64 [B], index of each instance's task among the inner tasks, which have learnable instructions.
        pair_ids: int64 [B, P], tokens of z = (input, output) (Eq. 4 of arXiv 2306.10098).
        pair_mask: int64 [B, P], 0 at padding.
        exemplar_ids: int64 [B, N, C], tokens of each instance's N exemplars; None if the instruction uses none.
        exemplar_mask: int64 [B, N, C], 0 at padding, and in all columns of a missing exemplar.
        head_ids: int64 [B, H], tokens before chosen demonstrations: bos and the definition; None if exemplars are not
            chosen as demonstrations.
        head_mask: int64 [B, H], 0 at padding; None as `head_ids`.
        places: int64 [B], number of demonstrations that fit into each row; None as `head_ids`.
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
    """Exemplar of a task: a solved training example that can serve as an instruction.

    Args:
        id: Id of the example; empty for a blank exemplar.
        text: The text of the exemplar; empty for a blank one.
    """

    id: str
    text: str


@dataclass(frozen=True)
class ExemplarPools:
    """Draws the exemplars of an instance: solved training examples of its task that can serve as its instruction.

    Args:
        exemplars: Number of exemplars, N.
        of: ``task`` gives all instances of a task the same exemplars, ``instance`` draws others for each instance.
        blanks: Whether all exemplars but the last are blank (the proof of concept of arXiv 2306.10098, section 4.2).
        exclude_self: Whether the instance itself, and others with its text, are replaced among its exemplars, since
            they contain its target.
        seed: Seed of the draws.

    Raises:
        ValueError: `exemplars` is below 1, or below 2 with `blanks`.
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
        """Return whether a task has too few instances for different exemplars, so that some are repeated.

        Args:
            task: Name of the task.
            examples: Its training instances.

        Raises:
            ValueError: An instance has no exemplar, since all other instances have its text.
        """
        most = len(examples) - fewest_others(examples, examples) if self.exclude_self else 0
        if len(examples) == most:
            raise ValueError(
                f"task {task!r} has {counted(len(examples), 'training instance')}, and for one of them no exemplar of "
                "another text: train on more instances, remove the task from the training list, or set "
                "instructions.exclude_self to false"
            )
        return len(examples) < self._real + most

    def fewest(self, pool: Sequence[Example], examples: Sequence[Example]) -> int:
        """Return the smallest number of different exemplars that any instance of a task gets.

        Args:
            pool: Examples of the task that can be exemplars.
            examples: Training instances of the task, which get exemplars.
        """
        return min(self._real, fewest_others(pool, examples) if self.exclude_self else len(pool))

    def draw(self, examples: Sequence[Example], example: Example) -> list[Example | None]:
        """Return the N exemplars of an example, None for a blank one; a task with fewer instances repeats them.

        An excluded instance is replaced by one that is not drawn yet, or else by a repeated one. If all instances are
        excluded, the list is empty.

        Args:
            examples: Training instances of the task.
            example: The instance whose exemplars are drawn.
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
        """Return N solved training examples of a task that can serve as its instruction; None for a blank one.

        All instances of the task share them, except that ``draw`` replaces those that equal the instance itself.
        """
        order = self._order(examples[0], len(examples)) if examples else []
        return self._behind_blanks([examples[i] for i in islice(cycle(order), self._real)])

    def _order(self, example: Example, size: int) -> list[int]:
        """Return the shuffled indices of a task's examples, for one instance or for all instances of the task."""
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
    """Return how many examples of a pool are left for the instance that has to exclude the most.

    An instance excludes examples with its own input and one of its targets, such as itself.

    Args:
        pool: Examples of a task that can be exemplars.
        examples: Instances of the task, at least one.

    >>> cat, dog, same = (Example("t", text, 0, text[:3], ("yes",)) for text in ["cat", "dog", "cat again"])
    >>> fewest_others([cat, dog, same], [cat, dog])  # only the dog is left for a cat
    1
    """
    places: dict[str, set[int]] = defaultdict(set)
    for place, one in enumerate(pool):
        for text in answered_texts(one):
            places[text].add(place)
    return min(
        len(pool) - len(set().union(*(places[t] for t in answered_texts(one) if t in places))) for one in examples
    )


def pair_texts(example: Example, target: str | None) -> tuple[str, str]:
    """Return the two texts of z = (input, target), from which an embedder computes an instance's instruction.

    Args:
        example: The instance.
        target: Its target; None leaves the second text empty.

    >>> pair_texts(Example("reverse", "a", 0, "c a f", ("f a c",)), "f a c")
    ('Input: c a f', ' Output: f a c')
    """
    return f"Input: {example.input.strip()}", "" if target is None else f" Output: {target}"


def exemplar_texts(example: Example, *, numbered: bool = False) -> tuple[str, str]:
    """Return an exemplar's input and target as two texts, worded like a demonstration in a prompt of Tk-Instruct.

    Args:
        example: The solved example.
        numbered: Whether the text begins with "Positive Example 1 -" or with "Positive Example -".

    >>> exemplar_texts(Example("reverse", "a", 0, "c a f", ("f a c",)))
    (' Positive Example -\\nInput: c a f.\\n', ' Output: f a c.\\n\\n')
    """
    target = next(target for target in example.targets if target.strip())
    return _worded(example.input.strip(), target.strip(), numbered=numbered)


def _worded(source: str, target: str, *, numbered: bool) -> tuple[str, str]:
    heading = " Positive Example 1 -" if numbered else " Positive Example -"
    return f"{heading}\n{with_full_stop(f'Input: {source}')}\n", f"{with_full_stop(f' Output: {target}')}\n\n"


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], *, longest: int
) -> tuple[Tensor, Tensor]:
    """Tokenize n pairs of texts, and return (ids, mask), int64 [n, P] each, padded to the P tokens of the longest.

    Args:
        tokenizer: The tokenizer.
        pairs: The pairs of texts; each becomes one sequence.
        longest: Maximum number of tokens of a pair; a longer pair loses the end of its longer text.

    Returns:
        The token ids, and the mask, which is 0 at padding.
    """
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
    blank_fields: bool = False,
) -> tuple[Tensor, Tensor]:
    """Tokenize N exemplars of each of B instances, padded to the C tokens of the longest.

    Args:
        tokenizer: The tokenizer.
        exemplars: The exemplars of each instance; None is a blank one.
        longest: Maximum number of tokens of an exemplar.
        numbered: Whether exemplars begin with "Positive Example 1 -" or with "Positive Example -".
        blank_fields: Whether a blank exemplar is the text of one with empty input and output, or as many padding tokens
            with mask 1 as the instance's last exemplar has tokens.

    Returns:
        The token ids, int64 [B, N, C], and the mask, int64 [B, N, C], which is 0 at padding.
    """
    real = [example for row in exemplars for example in row if example is not None]
    pairs = [exemplar_texts(example, numbered=numbered) for example in real]
    if blank_fields:
        pairs.append(_worded("", "", numbered=numbered))
    ids_RC, mask_RC = encode_pairs(tokenizer, pairs, longest=longest)
    blank_C = ids_RC[-1] if blank_fields else torch.full_like(ids_RC[0], tokenizer.pad_token_id)
    ids, masks, first = [], [], 0
    for row in exemplars:
        indices = [first + sum(e is not None for e in row[:column]) for column in range(len(row))]
        first = indices[-1] + 1  # the last exemplar is never blank
        ids += [blank_C if e is None else ids_RC[i] for e, i in zip(row, indices, strict=True)]
        blank_mask_C = mask_RC[-1 if blank_fields else indices[-1]]
        masks += [blank_mask_C if e is None else mask_RC[i] for e, i in zip(row, indices, strict=True)]
    shape = (len(exemplars), len(exemplars[0]), ids_RC.shape[1])
    return torch.stack(ids).view(shape), torch.stack(masks).view(shape)
