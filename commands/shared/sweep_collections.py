"""Check that collections which only some arms of a sweep train have files; without them, arms would be equal."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...datamodules.messages import MissingFiles
from .sweep_declarations import Sweep
from .sweep_runs import SweepRun


def require_arm_collections(sweep: Sweep, runs: Sequence[SweepRun]) -> None:
    """Check that the collections have files which an arm adds, or mixes in as an extra stream.

    Args:
        sweep: Declaration of the sweep.
        runs: Its runs.

    Raises:
        ValueError: A collection has no files; the message names collection and arm.
    """
    for run in {run.arm: run for run in runs}.values():
        collections = _init_args(_init_args(run.settings.get("data")).get("benchmark")).get("collections") or {}
        for name in _of_arm(sweep.arms[run.arm]):
            if name in collections:
                _require_files(run.arm, name, collections[name])


def _of_arm(settings: Mapping[str, Any]) -> list[str]:
    """Return the collections in an arm's own settings: those that it adds, and extra streams with a share."""
    data = _init_args(settings.get("data"))
    added = _init_args(data.get("benchmark")).get("collections") or {}
    extra = (data.get("mixture") or {}).get("extra") or {}
    return list(dict.fromkeys([*added, *(name for name, stream in extra.items() if stream.get("share"))]))


def _init_args(settings: Any) -> Mapping[str, Any]:
    return (settings or {}).get("init_args") or {}


def _require_files(arm: str, name: str, reader: Mapping[str, Any]) -> None:
    from ...datamodules.benchmarks import Benchmark
    from .parser import SentenceParser, import_classes

    import_classes("datamodules.benchmarks")
    parser = SentenceParser()
    parser.add_subclass_arguments(Benchmark, "reader", required=True)
    benchmark = parser.instantiate(parser.parse_object({"reader": reader})).reader
    problem = "none of its files is there"
    try:
        if any(benchmark.task_names(split) for split in ("train", "validation", "test")):
            return
    except MissingFiles as error:
        problem = str(error)
    raise ValueError(
        f"the arm {arm!r} trains on {name}, and {problem}: obtain the collection with `crosstask download` "
        "(docs/data.md), or leave the arm out (--arms)"
    )
