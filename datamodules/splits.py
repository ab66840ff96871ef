"""Splits of a task's instances into training, validation and test, and generalization levels of tasks.

Which tasks train and which are evaluated is decided in ``benchmarks/levels/generalization_levels.py``.
"""

import hashlib
import random
from array import array
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .messages import nearest
from .schema import Example, Level, Task

OPTION = "data.init_args.instances"
"""Path of ``Instances`` in a YAML file, for errors."""


@dataclass(frozen=True)
class Instances:
    """Numbers of a task's instances for training, validation and test.

    Args:
        train: Maximum number of training instances of a task, drawn at random; null for all.
        train_of: The same for tasks of single collections of a ``Bench``, e.g. ``{flan: 30000}`` as in OPT-IML.
        validation: Instances that each validation task holds out, or 0. If a benchmark has no validation tasks, every
            training task holds them out.
        validation_of: The same for tasks of single collections of a ``Bench``.
        validation_prompts: Maximum number of prompts of a validation task, if several templates render its instances;
            null for all.
        test: Instances of a test task, in all their templates. A task that does not train is tested on the first ones
            of its file; a task that also trains on a random choice.
        test_of: The same for tasks of single collections of a ``Bench``.
        held_out_share: Largest share of a training task's instances that it holds out for test, and again for
            validation, so that small tasks keep instances to train on. Null holds out the numbers of `validation` and
            `test` whatever the size.
        every_prompt: Whether all templates of a training instance are trained, as in T0's mixture and Cappy's
            pretraining. If false, a task has as many training prompts as instances, as in OPT-IML.
    """

    train: int | None = 100_000
    train_of: dict[str, int] | None = None
    validation: int = 10
    validation_prompts: int | None = 250
    test: int = 100
    every_prompt: bool = False
    validation_of: dict[str, int] | None = None
    test_of: dict[str, int] | None = None
    held_out_share: float | None = 0.2

    def __post_init__(self) -> None:
        limits = {"train": self.train, **_by_option("train_of", self.train_of)}
        for name, value in {**limits, "validation_prompts": self.validation_prompts}.items():
            if value is not None and value < 1:
                raise ValueError(f"{OPTION}.{name} must be at least 1, or null for all, got {value}")
        counts = {"validation": self.validation, "test": self.test, **_by_option("validation_of", self.validation_of)}
        for name, value in {**counts, **_by_option("test_of", self.test_of)}.items():
            if value < 0:
                raise ValueError(f"{OPTION}.{name} must be at least 0, got {value}")
        if self.held_out_share is not None and not 0 < self.held_out_share < 0.5:
            raise ValueError(
                f"{OPTION}.held_out_share must be above 0 and below 0.5, so that instances are left to train, or null; "
                f"got {self.held_out_share}"
            )

    @property
    def validates(self) -> bool:
        """Whether any task holds out instances for validation."""
        return any((self.validation, *(self.validation_of or {}).values()))

    def held_out(self, task: str, *, validated: bool, tested: bool) -> dict[str, int]:
        """Return the numbers of instances that a task holds out for validation and for test by these settings.

        >>> Instances(test=100, test_of={"mine": 7}).held_out("mine/rhymes", validated=False, tested=True)
        {'validation': 0, 'test': 7}

        Args:
            task: Name of the task, whose first part is its collection in a ``Bench``.
            validated: Whether the task is validated.
            tested: Whether the task is tested.
        """
        collection = task.partition("/")[0]
        validation = (self.validation_of or {}).get(collection, self.validation)
        test = (self.test_of or {}).get(collection, self.test)
        return {"validation": validation if validated else 0, "test": test if tested else 0}

    def require_collections(self, tasks: Iterable[str]) -> None:
        """Raise an error if a setting is for a collection of a ``Bench`` that does not exist, e.g. a misspelt one.

        Args:
            tasks: Names of all tasks, ``collection/task``.

        Raises:
            ValueError: An option names an unknown collection; the error names the nearest.
        """
        known = {task.partition("/")[0] for task in tasks}
        for option in ("train_of", "validation_of", "test_of"):
            for name in getattr(self, option) or {}:
                if name not in known:
                    raise ValueError(
                        f"{OPTION}.{option} names {name!r}, which is not a collection here; {nearest(name, known)}"
                    )

    def train_limit(self, task: str) -> int | None:
        """Return the maximum number of training instances of a task; None if it trains on all.

        It is that of the task's collection in ``train_of``, if it has one, else ``train``.

        >>> Instances(train=100, train_of={"flan": 30}).train_limit("flan/boolq")
        30
        """
        return (self.train_of or {}).get(task.partition("/")[0], self.train)


def _by_option(option: str, counts: dict[str, int] | None) -> dict[str, int]:
    return {f"{option}.{name}": count for name, count in (counts or {}).items()}


EVALUATED = "equal to an evaluated example"
"""Reason for using an example neither in training nor as a demonstration."""


class InstanceSplit(NamedTuple):
    """Disjoint sets of indices of a task's examples, counted in the order of its file.

    Args:
        train: Examples that train.
        validation: Examples that validate.
        test: Examples that are tested.
        repeated: Examples that do not train, because a validation or test example has the same text.
        reduced: Sentence with the numbers that a small task holds out instead of those of the settings; empty if they
            are the same.
    """

    train: list[int]
    validation: list[int]
    test: list[int]
    repeated: tuple[int, ...] = ()
    reduced: str = ""


def answered_texts(example: Example) -> frozenset[str]:
    """Return the input with each reference, by which repetitions of an example are recognized; empty if it is skipped.

    White space does not count. The input alone would not do: the prompts of "Write a review." are all equal.

    >>> one, other = Example("t", "7", 7, "Who  is it?", ("Ann",)), Example("t", "9", 9, "Who is it?", ("Bo", "Ann"))
    >>> answered_texts(one) & answered_texts(other)
    frozenset({'Who is it?\\nAnn'})
    """
    if example.skipped:
        return frozenset()
    text = " ".join(example.input.split())
    return frozenset(f"{text}\n{' '.join(target.split())}" for target in example.targets if target.strip())


class PromptKeys(NamedTuple):
    """Digests by which equal prompts of a task are found, without their texts in memory.

    A text is a prompt's input with one of its references, so that a prompt with several references has several texts.

    Args:
        rows: int64 [prompts], row of the upstream file that each prompt shows (``Example.index``).
        prompts: int64 [texts], index of the prompt of each text.
        texts: int64 [texts], digests of ``answered_texts``.
    """

    rows: NDArray[np.int64]
    prompts: NDArray[np.int64]
    texts: NDArray[np.int64]


def prompt_keys(examples: Iterable[Example]) -> PromptKeys:
    """Return digests of the examples of a task, by which repeated ones are found; each example is one prompt."""
    rows, prompts, digests = array("q"), array("q"), array("q")
    for place, example in enumerate(examples):
        rows.append(example.index)
        for text in answered_texts(example):
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            prompts.append(place)
            digests.append(int.from_bytes(digest, "little", signed=True))
    return PromptKeys(*(np.array(values, dtype=np.int64) for values in (rows, prompts, digests)))


def _no_repetitions(places: Collection[int]) -> set[int]:
    return set(places)


def choose_instances(
    task: str,
    total: int,
    *,
    trained: bool,
    validation: int,
    test: int,
    limit: int | None = None,
    held_out_share: float | None = None,
    seed: int = 0,
    equal_to: Callable[[Collection[int]], set[int]] = _no_repetitions,
) -> InstanceSplit:
    """Divide the instances of a task among training, validation and test, without repetitions between them.

    A task that does not train is tested on the first `test` instances of its file: Super-NaturalInstructions orders its
    test files so that the first 100 are balanced over labels, and published scores are on them. A task that also trains
    is tested on `test` instances that are drawn at random by (seed, task), since a training file may be sorted by
    label. The rest is shuffled; validation takes its share first, and training at most `limit` of the rest. Neither a
    tested instance nor another one with the same text is trained.

    Args:
        task: Name of the task; every task is shuffled differently.
        total: Number of instances in the file.
        trained: Whether the task is in the training split.
        validation: Instances to hold out for validation; 0 if the task is not validated.
        test: Instances to test; 0 if the task is not tested.
        limit: Maximum number of training instances; None for all.
        held_out_share: Largest share of a trained task's instances for test, and again for validation; None for no
            limit.
        seed: Seed of the random choices.
        equal_to: Function that returns the indices whose text equals that of one of the given indices, including these.
    """
    requested = validation, test
    if trained and held_out_share is not None:
        validation, test = (min(number, int(held_out_share * total)) for number in requested)
    reduced = f"{test} for test and {validation} for validation of {total}" if (validation, test) != requested else ""
    number = min(test, total)
    tested = sorted(_rng(seed, "test", task).sample(range(total), number)) if trained else list(range(number))
    repeated = equal_to(tested) - set(tested)
    kept_out = repeated.union(tested)
    rest = [place for place in range(total) if place not in kept_out]
    _rng(seed, "instances", task).shuffle(rest)
    validated, rest = rest[:validation], rest[validation:]
    repeated |= equal_to(validated) - {*validated, *tested}
    rest = [place for place in rest if place not in repeated]
    return InstanceSplit(rest[:limit] if trained else [], validated, tested, tuple(sorted(repeated)), reduced)


def _rng(seed: int, purpose: str, task: str) -> random.Random:
    return random.Random(hashlib.sha256(repr((seed, purpose, task)).encode()).digest())


def choose_prompts(
    task: str,
    keys: PromptKeys,
    *,
    trained: bool,
    validation: int,
    test: int,
    limit: int | None = None,
    validation_prompts: int | None = None,
    every_prompt: bool = False,
    held_out_share: float | None = None,
    seed: int = 0,
) -> InstanceSplit:
    """Divide the prompts of a task among training, validation and test, where several templates may render one row.

    Rows are divided first, by ``choose_instances``. So no row trains with one template and is tested with another, and
    no row trains that has a prompt in common with an evaluated row. Of all prompts of N training rows, N train, so that
    templates do not enlarge a task (OPT-IML, arXiv 2212.12017, section 4.1). Of the validation rows, at most
    `validation_prompts` prompts are kept; of the test rows, all.

    Args:
        task: Name of the task; every task is shuffled differently.
        keys: Row and texts of each prompt.
        trained: Whether the task is in the training split.
        validation: Rows to hold out for validation; 0 if the task is not validated.
        test: Rows to test; 0 if the task is not tested.
        limit: Maximum number of training rows, or with `every_prompt` most training prompts; None for all.
        validation_prompts: Maximum number of prompts for validation; None for all.
        every_prompt: Whether to train on every prompt of the training rows, as T0's mixture and Cappy's pretraining do.
        held_out_share: Largest share of a trained task's rows for test, and again for validation; None for no limit.
        seed: Seed of the random choices.
    """
    numbers, first, row_of = np.unique(keys.rows, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[row_of]  # rows by their first prompt: file order

    def equal_to(rows: Collection[int]) -> set[int]:
        row_of_text = place[keys.prompts]
        texts = keys.texts[np.isin(row_of_text, list(rows))]
        return set(rows).union(row_of_text[np.isin(keys.texts, texts)].tolist())

    dealt = choose_instances(
        task,
        len(numbers),
        trained=trained,
        validation=validation,
        test=test,
        limit=None if every_prompt else limit,
        held_out_share=held_out_share,
        seed=seed,
        equal_to=equal_to,
    )
    if len(numbers) == len(keys.rows):
        # One prompt a row: the places are those of the rows, in the order of the draw.
        return dealt._replace(train=dealt.train[:limit], validation=dealt.validation[:validation_prompts])
    pools = [np.flatnonzero(np.isin(place, part)) for part in dealt[:4]]  # prompts of the rows
    train = _drawn(pools[0], limit if every_prompt else len(dealt.train), task, "train", seed)
    validated = _drawn(pools[1], validation_prompts, task, "validation", seed)
    return InstanceSplit(train, validated, pools[2].tolist(), tuple(pools[3].tolist()), dealt.reduced)


def _drawn(pool: NDArray[np.int64], number: int | None, task: str, split: str, seed: int) -> list[int]:
    if number is None or number >= len(pool):
        return pool.tolist()
    digest = hashlib.sha256(repr((seed, "prompts", split, task)).encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return np.sort(generator.permutation(pool)[:number]).tolist()


def generalization_level(task: Task, trained: Collection[Task]) -> Level:
    """Return the generalization level of a task, computed from the tasks that really train.

    A task is fully supervised if it trains, or if another collection trains on its dataset in its category: Spider's
    official test set is fully supervised if its training set trains. See OPT-IML (arXiv 2212.12017), section 2.3.

    Args:
        task: The evaluated task.
        trained: All training tasks.
    """
    if shares_data(task, trained):
        return "fully_supervised"
    return "partially_supervised" if any(task.category == o.category for o in trained) else "fully_held_out"


def shares_data(task: Task, others: Collection[Task]) -> bool:
    """Return whether a task is one of `others`, or one of `others` has its dataset and category in another collection.

    Spider in two collections is the same data; in one collection, a dataset may have several tasks.
    """
    return any(task.name == other.name or _same_dataset(task, other) for other in others)


def _same_dataset(task: Task, other: Task) -> bool:
    """Return whether two collections hold one dataset in one category; in one collection it may have several tasks."""
    same = task.dataset == other.dataset and task.category == other.category
    return bool(task.dataset) and same and task.benchmark != other.benchmark
