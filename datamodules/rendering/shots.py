"""Evaluation with demonstrations: fixed for a task, and as many of them as fit."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..benchmarks import Split
from ..schema import Example, Prompt, Task
from ..storage.preparation import Preparation
from .demonstrations import DRAWN, choose
from .prompts import rendering_rng
from .reading import Reread
from .tokenization import tokenize_sources


@dataclass(frozen=True)
class ShotPreparation(Preparation):
    """A preparation whose prompts are asked after demonstrations.

    A task that trains shows examples of its training pool. Another shows what upstream publishes as its demonstrations,
    and then instances that are not evaluated. Prompts of one template of a task show the same ones.

    Args:
        shots: Demonstrations to show.
        separator: Between examples.
        room: Most tokens of a source; whole demonstrations are dropped, the last first, until it holds.
        names: The tasks of each split, which tell what of a task trains and what is held out.
        shown: Prompts rendered so far, by the number of demonstrations they show.
    """

    shots: int
    separator: str
    room: int
    names: Mapping[Split, Collection[str]]
    shown: Counter[int] = field(default_factory=Counter, kw_only=True)
    _pools: dict[str, list[Example]] = field(default_factory=dict, kw_only=True, repr=False)

    def render(self, task: Task, example: Example) -> Prompt:
        """The prompt after as many of the task's demonstrations as fit."""
        found = self._demonstrations(task, example)

        def after(number: int) -> Prompt:
            return self.render_after(task, example, found[:number], self.separator)

        fitting, most = 0, len(found)
        if self._fits(after(most)):
            fitting = most
        while most - fitting > 1:  # `fitting` demonstrations fit, or none does; `most` do not
            middle = (fitting + most) // 2
            fitting, most = (middle, most) if self._fits(after(middle)) else (fitting, middle)
        self.shown[fitting] += 1
        return after(fitting)

    def _fits(self, prompt: Prompt) -> bool:
        (source,) = tokenize_sources(self.tokenizer, [prompt.source], pair=self.pair, bos=self.bos)
        return len(source) <= self.room

    def _demonstrations(self, task: Task, example: Example) -> list[Example]:
        if task.name not in self._pools:
            self._pools.clear()  # tasks are rendered one after another: one pool at a time is in memory
            self._pools[task.name] = self._pool(task)
        asked_like = _only_template(example)
        rng = rendering_rng(self.counts.seed, task.name, f"demonstrations {example.template}", DRAWN)
        chosen = choose(self._pools[task.name], asked_like, self.shots, rng)
        upstream = [] if task.name in self.names["train"] else _upstream(task)
        return [one for one in upstream + chosen if one.index != example.index][: self.shots]

    def _pool(self, task: Task) -> list[Example]:
        trained = task.name in self.names["train"]
        if not trained and len(_upstream(task)) >= self.shots:
            return []
        examples = Reread(lambda: self.benchmark.examples(task.name))
        rows = np.fromiter((example.index for example in examples), dtype=np.int64)
        validated, tested = (task.name in self.names[split] for split in ("validation", "test"))
        chosen = self.instances(task.name, len(rows), trained=True, validated=validated, tested=tested, rows=rows)
        return self.pool(task, examples.at(chosen.train))


def with_shots(
    preparation: Preparation, *, shots: int, separator: str, room: int, names: Mapping[Split, Collection[str]]
) -> ShotPreparation:
    """The same preparation, asking after demonstrations; see ``ShotPreparation`` for the arguments."""
    shared: dict[str, Any] = {one.name: getattr(preparation, one.name) for one in fields(Preparation)}
    listed = {split: frozenset(tasks) for split, tasks in names.items()}
    return ShotPreparation(**shared, shots=shots, separator=separator, room=room, names=listed)


def _upstream(task: Task) -> list[Example]:
    return [
        Example(task.name, f"demonstration-{number}", -1 - number, solved.input, (solved.output,))
        for number, solved in enumerate(task.positive_examples)
    ]


def _only_template(example: Example) -> Example:
    """An example of no row, so that all prompts of a template choose alike."""
    return Example(example.task, "", -1, "", (), template=example.template)
