"""The training stream of two levels: which instances are trained at which step, and how they become batches.

Every batch is a function of (seed, step) alone, so that a position is one number, and means the same on any number of
replicas::

    step        0      1      2      3      4      5         inner_steps K = 3
    inner      0 1    2 3    4 5    6 7    8 9   10 11       places in the endless epochs over inner instances
    outer                    0..7                 8..15      the same over outer instances, at every K-th step
    curvature                0..7                 8..15      inner instances again, in an order of their own

Rows are padded, one example each, and not packed: a learnable instruction stands before every one of them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ..packing.collate import CausalRows, Seq2SeqRows
from ..packing.replicas import Replicas
from ..rendering.prompts import PromptForm, rendering_rng
from ..rendering.tokenization import skip_reason
from ..schema import CausalBatch, Prompt, Seq2SeqBatch, TokenizedExample
from ..storage.preparation import Preparation
from .bilevel_report import BilevelDescription, BilevelReport, LevelTasks, TaskInstances
from .exemplars import ExemplarPools, InstructionInputs, encode_exemplars, encode_pairs, pair_texts

LanguageRows = CausalBatch | Seq2SeqBatch
"""Rows that a language model reads."""


class InnerBatch(NamedTuple):
    """Inner instances: their rows, without instructions before them, and what those are computed from."""

    rows: LanguageRows
    inputs: InstructionInputs


class BilevelBatch(NamedTuple):
    """One theta step; at every K-th, a step of phi too.

    Args:
        inner: What theta is trained on.
        outer: Rows of outer tasks with the instructions that people wrote; None between the steps of phi.
        curvature: The inner batch at which the hypergradient is taken, if it is not `inner`.
    """

    inner: InnerBatch
    outer: LanguageRows | None = None
    curvature: InnerBatch | None = None


class Instance(NamedTuple):
    """One instance of a level: its task's place among the level's tasks, and its own among that task's."""

    task: int
    place: int


def read_instances(
    preparation: Preparation, names: Sequence[str], *, validated: bool, tested: Sequence[str]
) -> tuple[list[TaskInstances], Counter[str]]:
    """The training instances of tasks, and how many instances are skipped by reason.

    Raises:
        ValueError: A task has no training instances.
    """
    tasks, skipped = [], Counter[str]()
    for name in names:
        task, examples = preparation.benchmark.task(name), list(preparation.benchmark.examples(name))
        rows = [example.index for example in examples]
        chosen = preparation.split_instances(
            name, len(examples), trained=True, validated=validated, tested=name in tested, rows=rows
        )
        reasons = [skip_reason(task, examples[place]) for place in chosen.train]
        trained = [examples[place] for place, reason in zip(chosen.train, reasons, strict=True) if reason is None]
        skipped.update(reason for reason in reasons if reason is not None)
        if not trained:
            raise ValueError(
                f"training task {name!r} has no instances left beside those held out of its {len(examples)}: hold out "
                "fewer, or take it off the training list"
            )
        tasks.append(TaskInstances(task, trained))
    return tasks, skipped


class Shuffled:
    """Endless epochs over `size` items, each in an order of its own; any position is reached at once.

    >>> order = Shuffled(3, seed=0, name="inner")
    >>> sorted(order.at(place)[0] for place in range(3, 6)), order.at(4)[1]
    ([0, 1, 2], 1)
    """

    def __init__(self, size: int, *, seed: int, name: str) -> None:
        self.size, self.key = size, [seed, *name.encode()]
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def at(self, position: int) -> tuple[int, int]:
        """(item, epoch) at a position."""
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([*self.key, epoch]).permutation(self.size)
        return int(self._order[place]), epoch


@dataclass(frozen=True)
class TextSettings:
    """How instances of both levels are written.

    Args:
        prompt: Form of the outer instances, with the instructions that people wrote.
        inner_prompt: Form of the inner instances, what stands behind the learnable instruction.
        rows: The kind of row, with its capacity.
        reserve: Columns that an inner row leaves free.
        keep_end: Whether a source that is too long keeps its end or its beginning.
        pair_length: Longest z in tokens.
        pair_target: Whether z shows the target.
        exemplar_length: Longest exemplar in tokens.
        pools: Exemplars of the exemplars; None where nothing chooses among any.
    """

    prompt: PromptForm
    inner_prompt: PromptForm
    rows: CausalRows | Seq2SeqRows
    reserve: int
    keep_end: bool
    pair_length: int
    pair_target: bool
    exemplar_length: int
    pools: ExemplarPools | None


class BilevelPlan:
    """Which batch stands at which step.

    Args:
        preparation: Tokenizer and seed.
        inner: Inner tasks with their instances.
        outer: Outer tasks with theirs.
        text: How they are written.
        inner_steps: Theta steps for one of phi, K.
        inner_rows: Instances of a theta step, over all replicas.
        outer_rows: Instances of an outer batch, over all replicas, and of a fresh batch for the hypergradient.
        fresh: Whether the hypergradient has another inner batch than the theta step.
        skipped: Training instances that are skipped, by reason.
    """

    def __init__(
        self,
        preparation: Preparation,
        inner: Sequence[TaskInstances],
        outer: Sequence[TaskInstances],
        text: TextSettings,
        *,
        inner_steps: int,
        inner_rows: int,
        outer_rows: int,
        fresh: bool,
        skipped: Mapping[str, int] | None = None,
    ) -> None:
        self.preparation, self.inner, self.outer, self.text = preparation, inner, outer, text
        self.inner_steps, self.inner_rows, self.outer_rows, self.fresh = inner_steps, inner_rows, outer_rows, fresh
        self.skipped = skipped or {}
        if text.pools is not None:
            for task, examples in inner:
                text.pools.require(task.name, len(examples))
        self._inner, self._outer = _instances(inner), _instances(outer)
        seed = preparation.seed
        self._inner_order = Shuffled(len(self._inner), seed=seed, name="inner")
        self._outer_order = Shuffled(len(self._outer), seed=seed, name="outer")
        self._curvature_order = Shuffled(len(self._inner), seed=seed, name="curvature")

    def epoch_steps(self) -> int:
        """Theta steps of an epoch over the inner instances."""
        return -(-len(self._inner) // self.inner_rows)

    def require_steps(self, steps: int) -> None:
        """Reject a training in which phi never moves.

        Raises:
            ValueError: There are outer tasks, and fewer than `inner_steps` theta steps.
        """
        if self._outer and steps < self.inner_steps:
            raise ValueError(
                f"the length of training is counted in theta steps: set trainer.max_steps to at least inner_steps = "
                f"{self.inner_steps}, since phi moves once in so many (an epoch has {self.epoch_steps()} steps), got "
                f"{steps}"
            )

    def stream(self, here: Replicas, steps: int) -> "BilevelStream":
        """One replica's batches of `steps` theta steps."""
        return BilevelStream(self, here, steps)

    def report(self) -> BilevelReport:
        """One epoch over the inner instances in numbers."""
        steps = self.epoch_steps()
        return BilevelReport(*self._levels(steps), self.skipped, steps, self.inner_steps)

    def describe(self, steps: int) -> BilevelDescription:
        """The tasks of both levels, with what `steps` theta steps draw of each."""
        return BilevelDescription(*self._levels(steps))

    def _levels(self, steps: int) -> tuple[LevelTasks, LevelTasks]:
        outer_draws = steps // self.inner_steps * self.outer_rows
        return LevelTasks(self.inner, steps * self.inner_rows), LevelTasks(self.outer, outer_draws)

    def fingerprint(self) -> str:
        """Digest of the tasks of both levels and of the first batch; the same on every process of a run."""
        names = [task.name for task, _ in (*self.inner, *self.outer)]
        first = self.batch(0, Replicas()).inner.rows.input_ids
        return hashlib.sha256(repr((names, first.tolist())).encode()).hexdigest()[:12]

    def batch(self, step: int, here: Replicas) -> BilevelBatch:
        """This replica's part of a step, from 0."""
        inner = self._inner_batch(self._inner_order, step * self.inner_rows, self.inner_rows, here)
        if (step + 1) % self.inner_steps or not self._outer:
            return BilevelBatch(inner)
        first = step // self.inner_steps * self.outer_rows
        fresh = self._inner_batch(self._curvature_order, first, self.outer_rows, here) if self.fresh else None
        return BilevelBatch(inner, self._outer_batch(first, here), fresh)

    def first_inputs(self, task: int) -> InstructionInputs:
        """What an instruction is computed from, of the first training instance of an inner task."""
        instance = Instance(task, 0)
        return self._inputs([instance], [self._render(self.text.inner_prompt, self.inner, instance, epoch=0)])

    def _outer_batch(self, first: int, here: Replicas) -> LanguageRows:
        drawn = [self._outer_order.at(first + row) for row in range(self.outer_rows)]
        prompts = [self._render(self.text.prompt, self.outer, self._outer[item], epoch=epoch) for item, epoch in drawn]
        return self._rows(prompts, here, reserve=0)

    def _inner_batch(self, order: Shuffled, first: int, rows: int, here: Replicas) -> InnerBatch:
        drawn = [order.at(first + row) for row in range(rows)]
        prompts = [
            self._render(self.text.inner_prompt, self.inner, self._inner[item], epoch=epoch) for item, epoch in drawn
        ]
        instances = [self._inner[item] for item, _ in here.share(drawn)]
        inputs = self._inputs(instances, here.share(prompts))
        return InnerBatch(self._rows(prompts, here, reserve=self.text.reserve), inputs)

    def _inputs(self, instances: Sequence[Instance], prompts: Sequence[Prompt]) -> InstructionInputs:
        text, tokenizer = self.text, self.preparation.tokenizer
        examples = [self.inner[task].examples[place] for task, place in instances]
        pairs = [
            pair_texts(example, prompt.target if text.pair_target else None)
            for example, prompt in zip(examples, prompts, strict=True)
        ]
        tasks = torch.tensor([task for task, _ in instances])
        found = InstructionInputs(tasks, *encode_pairs(tokenizer, pairs, longest=text.pair_length))
        if text.pools is None:
            return found
        drawn = [text.pools.draw(self.inner[task].examples, place) for task, place in instances]
        ids, mask = encode_exemplars(tokenizer, drawn, longest=text.exemplar_length)
        return found._replace(exemplar_ids=ids, exemplar_mask=mask)

    def _render(self, form: PromptForm, tasks: Sequence[TaskInstances], instance: Instance, *, epoch: int) -> Prompt:
        """An instance as text; of several references, every epoch draws anew."""
        task, examples = tasks[instance.task]
        example = examples[instance.place]
        return form(task, example, rendering_rng(self.preparation.seed, task.name, example.id, epoch))

    def _rows(self, prompts: list[Prompt], here: Replicas, *, reserve: int) -> LanguageRows:
        """This replica's rows, as wide as the widest of them, with the number of targets of all replicas' rows."""
        kind = self.text.rows
        room = kind.capacity - reserve
        pair = isinstance(kind, Seq2SeqRows)
        documents = [
            cut_source(document, room, keep_end=self.text.keep_end, pair=pair)
            for document in self.preparation.tokenize(prompts)
        ]
        lengths, n_sources = _measures(documents)
        step_targets = int(kind.target_counts(lengths, n_sources).sum())
        mine = here.share(documents)
        lengths, n_sources = _measures(mine)
        narrow: CausalRows | Seq2SeqRows
        if isinstance(kind, Seq2SeqRows):
            targets = min(int((lengths - n_sources).max()), kind.target_length)
            narrow = replace(kind, source_length=min(int(n_sources.max()), room), target_length=targets)
        else:
            narrow = replace(kind, length=min(int(lengths.max()), room))
        return narrow.collate([[document] for document in mine], step_targets)


class BilevelStream:
    """One replica's batches of `steps` theta steps, sized and stateful; its state is the number of steps done."""

    def __init__(self, plan: BilevelPlan, here: Replicas, steps: int) -> None:
        for name, rows in (("inner_rows", plan.inner_rows), ("outer_rows", plan.outer_rows)):
            if rows % here.size:
                raise ValueError(
                    f"{name} = {rows} cannot be dealt to {here.size} replicas: choose a multiple of {here.size}"
                )
        self.plan, self.here, self.steps, self.step = plan, here, steps, 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[BilevelBatch]:
        while True:
            batch = self.plan.batch(self.step, self.here)
            self.step += 1  # before the batch is handed out: a checkpoint follows its step
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


def cut_source(document: TokenizedExample, room: int, *, keep_end: bool, pair: bool) -> TokenizedExample:
    """A document whose source gives way where it is too long; the target stays, and so does a pair's eos.

    Args:
        document: Source and target.
        room: Columns for the source of a pair (encoder-decoder model), or for both sides together.
        keep_end: Whether the source keeps its end or its beginning. The beginning of an instruction prompt is its
            definition, and its end the question with the word that asks for the answer.
        pair: Which of the two it is.

    >>> document = TokenizedExample(np.array([1, 2, 3, 4, 9]), 4)
    >>> [cut_source(document, 3, keep_end=end, pair=False).input_ids.tolist() for end in (True, False)]
    [[3, 4, 9], [1, 2, 9]]
    """
    ids, n_source = document.input_ids, document.n_source
    kept = max(room if pair else room - (len(ids) - n_source), 0)
    if kept >= n_source:
        return document
    source = ids[:n_source]
    if keep_end:
        source = source[n_source - kept :]
    else:
        source = np.concatenate([source[: kept - 1], source[-1:]]) if pair and kept else source[:kept]
    return TokenizedExample(np.concatenate([source, ids[n_source:]]), kept)


def _instances(tasks: Sequence[TaskInstances]) -> list[Instance]:
    return [Instance(task, place) for task, (_, examples) in enumerate(tasks) for place in range(len(examples))]


def _measures(documents: Sequence[TokenizedExample]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([len(d.input_ids) for d in documents]), np.array([d.n_source for d in documents])
