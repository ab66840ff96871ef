"""The description of a training stream in checkpoints, and the comparison with it when a run resumes.

The description is independent of the number of replicas and accumulated batches, so that a run resumes on any number.
::

    {"settings": {"rows.length": 2048, "mixture.cap": 4096, "seed": 0, ...},
     "tasks": {"training tasks": {"boolq": "3f2a...", ...}},       digest of each task's documents
     "beginning": "9c1e..."}                                       digest of the first rows
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from .messages import some

STREAM = "training_stream"
"""Key of the description in a datamodule's state."""

Stream = Mapping[str, Mapping[str, Any] | str]
"""A description, as drawn above."""


class ResumableStream(L.LightningDataModule, ABC):
    """LightningDataModule that notices when a run resumes on other training batches than those of its checkpoint.

    The training stream is the sequence of all training batches. Checkpoints store the settings and digests that
    identify it.
    """

    accepts_changed_stream: bool = False
    """Whether a run may resume on another stream, at the position of its checkpoint (``--changed_stream true``)."""

    @abstractmethod
    def training_stream(self) -> Stream | None:
        """Return the description of the training stream; None before ``setup("fit")``."""

    def state_dict(self) -> dict[str, Any]:
        stream = self.training_stream()
        return {} if stream is None else {STREAM: stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the training data of a checkpoint with this run's, if the run trains; otherwise do nothing.

        Raises:
            ValueError: The training batches would differ, and ``accepts_changed_stream`` is false.
        """
        stream = self.training_stream()
        if stream is not None and (self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING):
            saved: Stream = state_dict[STREAM]
            self.compare_stream(self.completed_stream(saved, stream), stream)

    def completed_stream(self, saved: Stream, stream: Stream) -> Stream:
        """Return a checkpoint's description of its training data, with defaults for settings newer than the checkpoint.

        Args:
            saved: Settings and digests in the checkpoint.
            stream: Those of this run.
        """
        settings = completed(saved["settings"], stream["settings"], type(self))  # type: ignore[arg-type]
        return {**saved, "settings": settings}

    def require_same_stream(self, checkpoint: Mapping[str, Any]) -> None:
        """Raise an error if a checkpoint was trained on other batches than this run, unless this is accepted.

        Args:
            checkpoint: Content of the checkpoint file.

        Raises:
            ValueError: Settings or tasks differ, and ``accepts_changed_stream`` is false. The message lists them with
                old and new values.
        """
        name = type(self).__qualname__
        if STREAM in checkpoint.get(name, {}):
            self.load_state_dict(checkpoint[name])
        elif not self.accepts_changed_stream:
            raise ValueError(
                f"the checkpoint does not describe a training stream of {name}: it was trained on other data, or by "
                f"another datamodule. {WAYS_OUT}"
            )

    def compare_stream(self, saved: Stream, stream: Stream) -> None:
        """Raise an error if a run would train on other batches than its checkpoint; if this is accepted, log how.

        Args:
            saved: Settings and digests that identify the checkpoint's training batches.
            stream: Those of this run.

        Raises:
            ValueError: They differ, and ``accepts_changed_stream`` is false.
        """
        differences = stream_changes(saved, stream)
        if not differences:
            return
        changed = "; ".join(differences)
        if not self.accepts_changed_stream:
            raise ValueError(f"the training stream is not that of the checkpoint: {changed}. {WAYS_OUT}")
        rank_zero_info(f"training resumes on another stream, at the position of the checkpoint: {changed}")


WAYS_OUT = (
    "Set back what has changed; or accept the new stream by --changed_stream true (in Python: "
    "datamodule.accepts_changed_stream = True); or start a new run from the weights (`crosstask export`)"
)


def stream_changes(saved: Stream, stream: Stream) -> list[str]:
    """Return phrases on how the training data of a run differs from its checkpoint's: by settings, tasks or code.

    >>> old = {"settings": {"seed": 0, "rows.length": 64}, "tasks": {"training tasks": {"a": "1", "b": "2"}}}
    >>> new = {"settings": {"seed": 1, "rows.length": 64}, "tasks": {"training tasks": {"b": "3", "c": "4"}}}
    >>> for change in stream_changes({**old, "beginning": "x"}, {**new, "beginning": "y"}):
    ...     print(change)
    seed was 0 and is 1
    training tasks: 1 added (c), 1 removed (a), 1 with other documents (b)
    """
    phrases = changed_values(saved["settings"], stream["settings"])  # type: ignore[arg-type]
    old, new = saved["tasks"], stream["tasks"]
    assert isinstance(old, Mapping)
    assert isinstance(new, Mapping)
    phrases += [phrase for group in {**old, **new} if (phrase := _changed_tasks(group, old, new))]
    if not phrases and saved["beginning"] != stream["beginning"]:
        phrases = ["all settings and tasks are equal, and the first rows differ: the code that draws or packs differs"]
    return phrases


def changed_values(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each setting whose value differs between two runs, with both values.

    >>> changed_values({"lr": 0.1, "warmup": 0}, {"lr": 0.1, "warmup": 60, "betas": [0.9, 0.95]})
    ['warmup was 0 and is 60', 'betas was missing and is [0.9, 0.95]']
    """
    return [
        f"{name} was {_shown(old, name)} and is {_shown(new, name)}"
        for name in {**old, **new}
        if _comparable(old.get(name)) != _comparable(new.get(name))
    ]


def completed(saved: Mapping[str, Any], now: Mapping[str, Any], build: type) -> dict[str, Any]:
    """Add to a checkpoint's settings the defaults of settings that did not exist yet when it was written.

    Without them, a new setting would make all older checkpoints unusable, although its default changes nothing.

    Args:
        saved: Settings of the checkpoint, under flat names.
        now: Settings of this run; only these are added.
        build: The class whose constructor has them as arguments, some of them in dataclasses.
    """
    arguments = inspect.signature(build).parameters.values()
    defaults = {each.name: each.default for each in arguments if each.default is not each.empty}
    missing = _missing(defaults, get_type_hints(build.__init__), saved, "")  # type: ignore[misc]
    return {**{name: value for name, value in missing.items() if name in now}, **saved}


def _missing(
    defaults: Mapping[str, Any], types: Mapping[str, Any], saved: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    """Return the defaults that a checkpoint lacks, under flat names; also those within its groups of settings."""
    missing: dict[str, Any] = {}
    for name in {**types, **defaults}:
        path, kinds = f"{prefix}{name}", (types.get(name), *get_args(types.get(name)))
        if any(given.startswith(f"{path}.") for given in saved):
            for kind in filter(is_dataclass, kinds):
                group = defaults.get(name) if isinstance(defaults.get(name), kind) else None  # type: ignore[arg-type]
                missing |= _missing(_field_values(kind, group), get_type_hints(kind), saved, f"{path}.")
        elif path not in saved and name in defaults:
            missing |= flat_settings(**{path: defaults[name]})
    return missing


def _field_values(kind: Any, group: Any) -> dict[str, Any]:
    """Return the values of a dataclass's fields: those of an instance, or else the fields' defaults."""
    if group is not None:
        return {field.name: getattr(group, field.name) for field in fields(kind)}
    factories = {each.name: each.default_factory() for each in fields(kind) if each.default_factory is not MISSING}
    return factories | {each.name: each.default for each in fields(kind) if each.default is not MISSING}


def flat_settings(**settings: Any) -> dict[str, Any]:
    """Return settings as plain values under dotted names; values of other types are replaced by their repr.

    >>> flat_settings(seed=0, rows={"length": 64, "per_step": 8})
    {'seed': 0, 'rows.length': 64, 'rows.per_step': 8}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        value = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        if isinstance(value, Mapping):
            flat |= {
                f"{name}.{key}": item for key, item in flat_settings(**{str(k): v for k, v in value.items()}).items()
            }
        else:
            plain = value is None or isinstance(value, str | int | float | bool | list | tuple)
            flat[name] = value if plain else repr(value)
    return flat


def _changed_tasks(group: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = saved.get(group, {}), now.get(group, {})
    parts = {
        "added": [task for task in new if task not in old],
        "removed": [task for task in old if task not in new],
        "with other documents": [task for task in new if task in old and old[task] != new[task]],
    }
    phrases = [f"{len(tasks)} {what} ({some(tasks)})" for what, tasks in parts.items() if tasks]
    if not phrases and list(old) != list(new):
        phrases = ["in another order"]
    return f"{group}: {', '.join(phrases)}" if phrases else ""


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(values: Mapping[str, Any], name: str) -> str:
    return str(values[name]) if name in values else "missing"
