"""Few-shot prompts of evaluation: one set of demonstrations for all examples of a task, as many of them as fit."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from ..benchmarks import Split
from ..rendering.chosen_demonstrations import Chosen
from ..rendering.demonstrations import DEMONSTRATION_STREAM, choose_demonstrations, without_example
from ..rendering.example_cache import ExampleCache, ExampleSubset
from ..rendering.prompts import rendering_rng
from ..rendering.skipped_examples import skip_reason
from ..schema import Example, Prompt, Task
from ..splits import InstanceSplit, answered_texts, prompt_keys
from ..storage.preparation import Preparation
from .prompt_lengths import PromptLengths, most_fitting


@dataclass(frozen=True)
class FewShotPreparation(Preparation):
    """Renders evaluation prompts with demonstrations (few-shot), and keeps demonstrations out of the evaluation set.

    Demonstrations of a training task are training instances, those in ``chosen`` first. Demonstrations of another task
    are those that its authors published, then instances that are not evaluated. If these are too few, the last
    held-out instances become demonstrations and are not evaluated. All prompts of one template of a task have the same
    demonstrations, and a prompt with k demonstrations has the first k of them. The arguments of ``Preparation``, the
    settings of zero-shot rendering and tokenization, come first.

    Args:
        shots: The largest number of demonstrations.
        separator: Text between two examples.
        room: Maximum number of tokens of a prompt; whole demonstrations are dropped, the last one first, until it fits.
        names: Names of the tasks of each split.
        counts_by_shots: Counts rendered prompts, by (demonstrations requested, demonstrations that fit).
        repeated: Counts examples that are no demonstrations because an evaluated example has the same text, by task.
    """

    shots: int
    separator: str
    room: int
    names: Mapping[Split, Collection[str]]
    counts_by_shots: Counter[tuple[int, int]] = field(default_factory=Counter, kw_only=True)
    repeated: Counter[str] = field(default_factory=Counter, kw_only=True)
    _pools: dict[str, tuple[list[Example], list[Example]]] = field(default_factory=dict, kw_only=True, repr=False)

    def few_shot_prompt(self, task: Task, example: Example, shots: int) -> Prompt:
        """Return the prompt of an example after `shots` demonstrations; after fewer if those exceed ``room`` tokens."""
        demonstrations = self._demonstrations(task, example)[:shots]

        def prompt(number: int) -> Prompt:
            return self.render_after(task, example, demonstrations[:number], self.separator)

        fits = self._lengths.fits(self.room, self.query(task, example))
        fitting = most_fitting(len(demonstrations), lambda number: fits(prompt(number)))
        self.counts_by_shots[shots, fitting] += 1
        return prompt(fitting)

    def split_instances(
        self, name: str, examples: Iterable[Example], *, trained: bool, validated: bool, tested: bool
    ) -> InstanceSplit:
        """Choose the training, validation and test instances of a task; demonstrations are not evaluated.

        A task that trains is split as in zero-shot evaluation. From any other task, as many of the last rows of
        validation, and then of the test, are taken out as are needed as demonstrations; each keeps half
        (``reserved_from``).

        Args:
            name: Name of the task.
            examples: All examples of the task.
            trained: Whether the task trains.
            validated: Whether the task is evaluated in validation.
            tested: Whether the task is evaluated in the test.
        """
        instances = super().split_instances(name, examples, trained=trained, validated=validated, tested=tested)
        if trained or not (needed := self._needed(self.benchmark.task(name))):
            return instances
        row_of = prompt_keys(examples).rows
        evaluated = [
            list(dict.fromkeys(row_of[sorted(places)].tolist())) for places in (instances.validation, instances.test)
        ]
        repeated = set(row_of[list(instances.repeated)].tolist())
        held_back = needed - (len(set(row_of.tolist())) - sum(map(len, evaluated)) - len(repeated))
        reserved = set[int]()
        for rows in evaluated:
            reserved.update(rows[reserved_from(len(rows), held_back - len(reserved)) :])
        validation, test = (
            [place for place in places if row_of[place] not in reserved]
            for places in (instances.validation, instances.test)
        )
        return instances._replace(validation=validation, test=test)

    def _needed(self, task: Task) -> int:
        """Return the number of the task's own instances that are needed as demonstrations."""
        if self.benchmark.demonstration_pool(task.name) is not None:
            return 0
        return max(self.shots - len(_published(task)), 0)

    @cached_property
    def _lengths(self) -> PromptLengths:
        return PromptLengths(self)

    def _demonstrations(self, task: Task, example: Example) -> list[Example]:
        if task.name not in self._pools:
            self._pools.clear()  # tasks are rendered one after another: one pool at a time is in memory
            self._lengths.clear()
            self._pools[task.name] = self._pool(task)
        first, pool = self._pools[task.name]
        drawn = shared_demonstrations(pool, task.name, example.template, self.shots, seed=self.seed)
        rest = [one for one in drawn if one not in first]
        return without_example([*first, *rest], example)[: self.shots]

    def _pool(self, task: Task) -> tuple[list[Example], list[Example]]:
        """Return the demonstrations that come first, and the examples to draw others from."""
        trained = task.name in self.names["train"]
        if not trained and not self._needed(task) and self.benchmark.demonstration_pool(task.name) is None:
            return _published(task), []
        examples = ExampleCache(lambda: self.benchmark.examples(task.name))
        validated, tested = (task.name in self.names[split] for split in ("validation", "test"))
        instances = self.split_instances(task.name, examples, trained=trained, validated=validated, tested=tested)
        if trained:
            subset = examples.subset(instances.train)
            return self.chosen_first(task, subset), self.pool(task, subset)
        held_out = frozenset([*instances.validation, *instances.test])
        evaluated = list(ExampleSubset(examples, held_out))
        if (solved := self.benchmark.demonstration_pool(task.name)) is not None:
            return [], self._unevaluated(task, evaluated, solved)
        rows = {example.index for example in evaluated}
        rest = [place for place, example in enumerate(examples) if example.index not in rows]
        return _published(task), self._unevaluated(task, evaluated, self.pool(task, examples.subset(rest)))

    def _unevaluated(self, task: Task, evaluated: Iterable[Example], pool: Iterable[Example]) -> list[Example]:
        """Return the examples of a pool whose text is in no evaluated example; count the others in ``repeated``."""
        texts = {text for example in evaluated for text in answered_texts(example)}
        usable = [example for example in pool if skip_reason(task, example) is None]
        kept = [example for example in usable if texts.isdisjoint(answered_texts(example))]
        self.repeated[task.name] += len(usable) - len(kept)
        return kept


def shared_demonstrations(
    pool: Sequence[Example], task: str, template: str | None, number: int, *, seed: int
) -> list[Example]:
    """Draw the demonstrations that all examples of a task with one template share.

    A smaller number gives the first ones of a larger number.

    Args:
        pool: Examples of the task to draw from.
        task: Name of the task.
        template: Template of the evaluated examples; None for tasks without templates.
        number: Number of demonstrations.
        seed: Seed of the draw.
    """
    # An example of no row, so that all prompts of a template get the same demonstrations.
    like = Example(task, "", -1, "", (), template=template)
    rng = rendering_rng(seed, task, f"demonstrations {template}", DEMONSTRATION_STREAM)
    return choose_demonstrations(pool, like, number, rng)


def reserved_from(evaluated: int, held_back: int) -> int:
    """Return how many evaluated rows stay evaluated; the rows from this index on become demonstrations.

    Args:
        evaluated: Number of evaluated rows.
        held_back: Number of rows that are needed as demonstrations; at most half of the rows are taken.

    >>> [reserved_from(10, 3), reserved_from(4, 3), reserved_from(1, 3), reserved_from(10, 0)]
    [7, 2, 1, 10]
    """
    return evaluated - min(max(held_back, 0), evaluated // 2)


def few_shot_preparation(
    preparation: Preparation,
    *,
    shots: int,
    separator: str,
    room: int,
    names: Mapping[Split, Collection[str]],
    chosen: Chosen | None = None,
) -> FewShotPreparation:
    """Return a preparation with the same settings that renders evaluation prompts with demonstrations.

    Args:
        preparation: Zero-shot rendering and tokenization.
        shots: The largest number of demonstrations.
        separator: Text between two examples.
        room: Maximum number of tokens of a prompt, demonstrations included.
        names: Names of the tasks of each split.
        chosen: Ids of demonstrations to use first, by task; None for none.
    """
    shared: dict[str, Any] = {one.name: getattr(preparation, one.name) for one in fields(Preparation)}
    shared["chosen"] = chosen or {}
    task_names = {split: frozenset(tasks) for split, tasks in names.items()}
    return FewShotPreparation(**shared, shots=shots, separator=separator, room=room, names=task_names)


def _published(task: Task) -> list[Example]:
    """Return the demonstrations that a task's authors published, as examples."""
    return [
        Example(task.name, f"demonstration-{number}", -1 - number, solved.input, (solved.output,))
        for number, solved in enumerate(task.positive_examples)
    ]
