"""Check that the collections which an arm of a sweep mixes in have files; without them, arms would be equal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...datamodules.messages import MissingFiles, some
from .sweep_declarations import Sweep
from .sweep_runs import SweepRun


def require_arm_collections(sweep: Sweep, runs: Sequence[SweepRun]) -> None:
    """Check that the task collections in the settings of an arm (a variant of the sweep's recipe) have files.

    These are the collections that the arm adds to the benchmark, and those that it gives a share of the mixture.

    Args:
        sweep: Declaration of the sweep.
        runs: Its runs.

    Raises:
        ValueError: Collections have no files; the message names each, with its arms.
    """
    arms: dict[tuple[str, str], list[str]] = {}
    for run in {run.arm: run for run in runs}.values():
        collections = _init_args(_init_args(run.settings.get("data")).get("benchmark")).get("collections") or {}
        for name in _of_arm(sweep.arms[run.arm]):
            if name in collections:
                arms.setdefault((name, json.dumps(collections[name])), []).append(run.arm)
    missing = [
        f"{_subject(of_collection)} on {name}, and {problem}"
        for (name, reader), of_collection in arms.items()
        if (problem := _missing_files(json.loads(reader)))
    ]
    if missing:
        raise ValueError(
            f"{'; '.join(missing)}: obtain these collections with `crosstask download` (docs/data.md), or leave the "
            "arms out (--arms)"
        )


def _of_arm(settings: Mapping[str, Any]) -> list[str]:
    """Return the collections in an arm's own settings: those that it adds, and those with a share of its mixture."""
    data = _init_args(settings.get("data"))
    added = _init_args(data.get("benchmark")).get("collections") or {}
    mixture = data.get("mixture") or {}
    extra = {name: stream.get("share") for name, stream in (mixture.get("extra") or {}).items()}
    shares = {**(mixture.get("proportions") or {}), **extra}
    return list(dict.fromkeys([*added, *(name for name, share in shares.items() if share)]))


def _init_args(settings: Any) -> Mapping[str, Any]:
    return (settings or {}).get("init_args") or {}


def _subject(arms: Sequence[str]) -> str:
    if len(arms) == 1:
        return f"the arm {arms[0]!r} trains"
    return f"the arms {some([repr(arm) for arm in arms])} train"


def _missing_files(reader: Any) -> str:
    """Return what is missing of a collection, given its settings; empty if it has files."""
    from ...datamodules.benchmarks import Benchmark
    from ...datamodules.benchmarks.own_data.file_tasks import as_benchmark
    from .parser import SentenceParser, import_classes

    if not isinstance(reader, str):  # a text is the path of the user's own files
        import_classes("datamodules.benchmarks")
        parser = SentenceParser()
        parser.add_subclass_arguments(Benchmark, "reader", required=True)
        reader = parser.instantiate(parser.parse_object({"reader": reader})).reader
    benchmark = as_benchmark(reader)
    try:
        found = any(benchmark.task_names(split) for split in ("train", "validation", "test"))
    except MissingFiles as error:
        return str(error)
    return "" if found else "none of its files is there"
