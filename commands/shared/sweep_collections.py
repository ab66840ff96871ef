"""Check that the collections which an arm of a sweep mixes in have files and train; otherwise arms would be equal."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...datamodules.messages import MissingFiles, some
from .config_names import init_args
from .sweep_declarations import Sweep
from .sweep_runs import SweepRun

if TYPE_CHECKING:
    from ...datamodules.benchmarks import Benchmark


def require_arm_collections(sweep: Sweep, runs: Sequence[SweepRun]) -> None:
    """Check that the task collections in the settings of an arm (a variant of the sweep's recipe) have files.

    These are the collections that the arm adds to the benchmark, and those that it gives a share of the mixture. Of the
    latter, a task must train by the rules of the benchmark.

    Args:
        sweep: Declaration of the sweep.
        runs: Its runs.

    Raises:
        ValueError: Collections have no files, or none of their tasks trains; the message names each, with its arms.
    """
    arms: dict[tuple[str, str], list[str]] = {}
    trained: dict[tuple[str, str], list[str]] = {}
    for run in {run.arm: run for run in runs}.values():
        benchmark = init_args(run.settings.get("data")).get("benchmark")
        collections = init_args(benchmark).get("collections") or {}
        added, mixed = _of_arm(sweep.arms[run.arm])
        for name in dict.fromkeys([*added, *mixed]):
            if name in collections:
                arms.setdefault((name, json.dumps(collections[name])), []).append(run.arm)
        for name in mixed:
            if name in collections:
                trained.setdefault((name, json.dumps(benchmark)), []).append(run.arm)
    _require(arms, lambda name, reader: _missing_files(reader))
    _require(trained, _untrained)


def _require(arms: Mapping[tuple[str, str], Sequence[str]], problem_of: Callable[[str, "Benchmark"], str]) -> None:
    """Raise an error that names the collections with a problem, and their arms.

    Args:
        arms: Arms by the name of a collection and the settings of a benchmark, as JSON.
        problem_of: Returns the problem of a collection's name and the benchmark, or an empty text.
    """
    benchmarks = {settings: _benchmark(json.loads(settings)) for _, settings in arms}
    problems = [
        f"{_subject(of_collection)} on {name}, and {problem}"
        for (name, settings), of_collection in arms.items()
        if (problem := problem_of(name, benchmarks[settings]))
    ]
    if problems:
        raise ValueError(
            f"{'; '.join(problems)}: obtain these collections with `crosstask download` (docs/data.md), or leave the "
            "arms out (--arms)"
        )


def _of_arm(settings: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the collections in an arm's own settings: those that it adds, and those with a share of its mixture."""
    data = init_args(settings.get("data"))
    added = init_args(data.get("benchmark")).get("collections") or {}
    mixture = data.get("mixture") or {}
    extra = {name: stream.get("share") for name, stream in (mixture.get("extra") or {}).items()}
    shares = {**(mixture.get("proportions") or {}), **extra}
    return list(added), [name for name, share in shares.items() if share]


def _subject(arms: Sequence[str]) -> str:
    if len(arms) == 1:
        return f"the arm {arms[0]!r} trains"
    return f"the arms {some([repr(arm) for arm in arms])} train"


def _benchmark(settings: Any) -> "Benchmark":
    """Return the benchmark of its settings; a text is the path of the user's own files."""
    from ...datamodules.benchmarks import Benchmark
    from ...datamodules.benchmarks.own_data.file_tasks import as_benchmark
    from .parser import SentenceParser, import_classes

    if isinstance(settings, str):
        return as_benchmark(settings)
    import_classes("datamodules", "datamodules.benchmarks")
    parser = SentenceParser()
    parser.add_subclass_arguments(Benchmark, "reader", required=True)
    return as_benchmark(parser.instantiate(parser.parse_object({"reader": settings})).reader)


def _missing_files(collection: "Benchmark") -> str:
    """Return what is missing of a collection; empty if it has files."""
    try:
        found = any(collection.task_names(split) for split in ("train", "validation", "test"))
    except MissingFiles as error:
        return str(error)
    return "" if found else "none of its files is there"


def _untrained(name: str, benchmark: "Benchmark") -> str:
    """Return why no task of a collection trains; empty if one does."""
    if any(task.startswith(f"{name}/") for task in benchmark.task_names("train")):
        return ""
    from ...datamodules.benchmarks.bench import Bench

    left_out = benchmark.split.excluded if isinstance(benchmark, Bench) else {}
    reasons = [f"{task}, {reason}" for task, reason in left_out.items() if task.startswith(f"{name}/")]
    return f"none of its tasks trains: {some(reasons)}"
