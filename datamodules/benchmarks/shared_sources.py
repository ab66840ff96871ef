"""The tasks of each split, without training tasks that were made from the data of held-out tasks."""

from collections.abc import Callable, Mapping
from typing import get_args

from ..messages import some
from ..schema import Task
from .bench import Bench
from .benchmark import Benchmark, Split
from .levels.dataset_identities import source_key
from .levels.split_rules import read_rules
from .suite import Suite


def names_by_split(
    benchmark: Benchmark, task: Callable[[str], Task] | None = None
) -> tuple[dict[Split, list[str]], Mapping[str, str]]:
    """Return the task names of each split, without training tasks that were made from the data of held-out tasks.

    A training task is left out if it shares a source (``Task.sources``) with a task that is only evaluated. The broad
    sources of OPT-IML's rules (Wikipedia, news) do not count. The tasks of a ``Bench`` are not changed, since it
    applies rules of its own; nor are those of a ``Suite``, in which nothing trains.

    Args:
        benchmark: The benchmark reader.
        task: Function that returns a task's metadata, e.g. one that caches; None for ``benchmark.task``.

    Returns:
        The names by split, and the reason for each training task that is left out.

    Raises:
        ValueError: No training task is left.
    """
    names: dict[Split, list[str]] = {split: benchmark.task_names(split) for split in get_args(Split)}
    trained = set(names["train"])
    held_out = [name for name in dict.fromkeys([*names["validation"], *names["test"]]) if name not in trained]
    if isinstance(benchmark, Bench | Suite) or not held_out or not trained:
        return names, {}
    read = task or benchmark.task
    broad = {source_key(source) for source in read_rules("opt_iml").broad_sources}
    keys = {name: {*map(source_key, read(name).sources)} - broad for name in held_out}
    owners = {key: name for name, of_task in keys.items() for key in of_task}
    shared = {}
    for name in names["train"] if owners else ():
        if key := next((key for key in map(source_key, read(name).sources) if key in owners), None):
            shared[name] = f"{key} of {owners[key]}"
    kept = [name for name in names["train"] if name not in shared]
    if not kept:
        listed = some([f"{name} ({why})" for name, why in shared.items()])
        raise ValueError(
            f"all {len(shared)} training tasks were made from data of evaluated tasks: {listed}; correct their "
            "sources, or evaluate other tasks"
        )
    return {**names, "train": kept}, shared
