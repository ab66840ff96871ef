"""Evaluation with demonstrations: fixed for a task, and as many of them as fit."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..benchmarks import Split
from ..rendering.demonstrations import DRAWN, choose
from ..rendering.prompts import rendering_rng
from ..rendering.reading import Reread
from ..rendering.tokenization import skip_reason, tokenize_sources
from ..schema import Example, Prompt, Task
from ..splits import InstanceSplit
from ..storage.preparation import Preparation


@dataclass(frozen=True)
class ShotPreparation(Preparation):
    """A preparation whose prompts are asked after demonstrations.

    A task that trains shows examples of its training pool. Another shows what upstream publishes as its demonstrations,
    and then instances that are not evaluated; where too few are left, the last ones of its file are not asked at all.
    Prompts of one template of a task show the same ones, and fewer shots are the first of more.

    Args:
        shots: The largest number of demonstrations.
        separator: Between examples.
        room: Most tokens of a source; whole demonstrations are dropped, the last first, until it holds.
        names: The tasks of each split, which tell what of a task trains and what is held out.
        shown: Prompts rendered so far, by the demonstrations they should show and those they do.
    """

    shots: int
    separator: str
    room: int
    names: Mapping[Split, Collection[str]]
    shown: Counter[tuple[int, int]] = field(default_factory=Counter, kw_only=True)
    _pools: dict[str, tuple[list[Example], list[Example]]] = field(default_factory=dict, kw_only=True, repr=False)

    def evaluated_after(self, task: Task, example: Example, shots: int) -> Prompt:
        """The prompt after `shots` of the task's demonstrations, or after as many of them as fit."""
        found = self._demonstrations(task, example)[:shots]

        def after(number: int) -> Prompt:
            return self.render_after(task, example, found[:number], self.separator)

        fitting, most = 0, len(found)
        if self._fits(after(most)):
            fitting = most
        while most - fitting > 1:  # `fitting` demonstrations fit, or none does; `most` do not
            middle = (fitting + most) // 2
            fitting, most = (middle, most) if self._fits(after(middle)) else (fitting, middle)
        self.shown[shots, fitting] += 1
        return after(fitting)

    def split_instances(
        self,
        name: str,
        total: int,
        *,
        trained: bool,
        validated: bool,
        tested: bool,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> InstanceSplit:
        """As without demonstrations, but for the rows that a task needs to show."""
        dealt = super().split_instances(name, total, trained=trained, validated=validated, tested=tested, rows=rows)
        if trained or not (missing := self._missing(self.benchmark.task(name))):
            return dealt
        row_of = np.arange(total) if rows is None else np.asarray(rows)
        asked = list(dict.fromkeys(row_of[sorted([*dealt.validation, *dealt.test])].tolist()))
        held_back = missing - (len(set(row_of.tolist())) - len(asked))
        if held_back <= 0:
            return dealt
        shown = set(asked[-min(held_back, len(asked) // 2) :])  # half of a small task is still asked
        kept = [[place for place in part if row_of[place] not in shown] for part in (dealt.validation, dealt.test)]
        return InstanceSplit(dealt.train, *kept)

    def _missing(self, task: Task) -> int:
        """How many of the task's own instances are needed as demonstrations."""
        if self.benchmark.solved_examples(task.name) is not None:
            return 0
        return max(self.shots - len(_upstream(task)), 0)

    def _fits(self, prompt: Prompt) -> bool:
        (source,) = tokenize_sources(self.tokenizer, [prompt.source], pair=self.pair, bos=self.bos)
        return len(source) <= self.room

    def _demonstrations(self, task: Task, example: Example) -> list[Example]:
        if task.name not in self._pools:
            self._pools.clear()  # tasks are rendered one after another: one pool at a time is in memory
            self._pools[task.name] = self._pool(task)
        published, pool = self._pools[task.name]
        evaluated_like = _only_template(example)
        rng = rendering_rng(self.seed, task.name, f"demonstrations {example.template}", DRAWN)
        found = [*published, *choose(pool, evaluated_like, self.shots, rng)]
        return [one for one in found if one.index != example.index][: self.shots]

    def _pool(self, task: Task) -> tuple[list[Example], list[Example]]:
        """Demonstrations that come first, and others to draw from."""
        trained = task.name in self.names["train"]
        if not trained and (solved := self.benchmark.solved_examples(task.name)) is not None:
            return [], [example for example in solved if skip_reason(task, example) is None]
        if not trained and not self._missing(task):
            return _upstream(task), []
        examples = Reread(lambda: self.benchmark.examples(task.name))
        rows = np.fromiter((example.index for example in examples), dtype=np.int64)
        validated, tested = (task.name in self.names[split] for split in ("validation", "test"))
        dealt = self.split_instances(
            task.name, len(rows), trained=trained, validated=validated, tested=tested, rows=rows
        )
        if trained:
            return [], self.pool(task, examples.at(dealt.train))
        asked = set(rows[[*dealt.validation, *dealt.test]].tolist())
        rest = [place for place, row in enumerate(rows.tolist()) if row not in asked]
        return _upstream(task), self.pool(task, examples.at(rest))


def with_shots(
    preparation: Preparation, *, shots: int, separator: str, room: int, names: Mapping[Split, Collection[str]]
) -> ShotPreparation:
    """The same preparation with demonstrations before each example; see ``ShotPreparation`` for the arguments."""
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
