"""The filters that templates of strangers may use, and the charges for what they create.

Filters that can create more than they read are our own. They charge a rendering's budget before they compute, and
reject null, which Jinja would write as the word None.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.filters import FILTERS, do_round
from jinja2.runtime import Context
from jinja2.sandbox import SecurityError

from ..rows.row import holds_null
from .template_budget import State, growth, rendering_state

PLAIN_FILTERS = """abs capitalize count d default dictsort first float int items last length list lower map max min
    reject rejectattr reverse select selectattr sort sum title trim unique upper wordcount""".split()
"""Jinja's filters whose results are no larger than their inputs; the other allowed filters are defined below."""

TEXT_FILTERS = "capitalize lower title trim upper wordcount".split()
"""The filters among PLAIN_FILTERS that turn any value into text."""


class WritesNull(ValueError):
    """A template would write a null value as the word None."""


@pass_context
def _charged(context: Context, value: Any) -> Any:
    rendering_state(context).pay(value)
    return value


@pass_context
def _charged_iterations(context: Context, values: Iterable[Any]) -> Iterator[Any] | Sequence[Any]:
    state = rendering_state(context)
    if isinstance(values, str | list | tuple | dict | range):
        state.spend(state.iteration_cost * len(values))
        return _Watched(values, state)  # a copy: the template may append to what it loops over
    return _iterate(values, state)


class _Watched(list[Any]):
    """List that reads the clock in every iteration, and has a length, which ``loop.length`` needs."""

    def __init__(self, values: Iterable[Any], state: State) -> None:
        super().__init__(values)
        self._state = state

    def __iter__(self) -> Iterator[Any]:
        for value in super().__iter__():
            self._state.watch()
            yield value


def _iterate(values: Iterable[Any], state: State) -> Iterator[Any]:
    for value in values:
        state.spend(state.iteration_cost)
        yield value


@pass_context
def text_of(context: Context, value: Any) -> str:
    """Return a value of a row as text in a prompt; null, and values of other types than JSON's, are rejected."""
    if not isinstance(value, str | int | float | list | tuple | dict | None):
        if isinstance(value, Undefined):
            return str(value)
        raise TypeError(f"no text for a {type(value).__name__}")
    rendering_state(context).pay(value)
    if not isinstance(value, str) and holds_null(value):
        raise WritesNull
    return str(value)


def _of_text(text_filter: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that rejects null, which Jinja would pass to it as the word None."""

    def filtered(value: Any, *args: Any, **kwargs: Any) -> Any:
        if holds_null(value):
            raise WritesNull
        return text_filter(value, *args, **kwargs)

    return filtered


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = (text_of(context, value) for value in (text, old, new))
    rendering_state(context).spend(growth(text, "replace", (old, new)))
    return text.replace(old, new, count)


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        values = [context.environment.getitem(value, attribute) for value in values]
    return text_of(context, d).join([text_of(context, value) for value in _charged_items(context, values, len(d))])


def _charged_items(context: Context, values: Iterable[Any], separator: int) -> Iterator[Any]:
    for value in values:
        rendering_state(context).spend(separator + 1)
        yield value


@pass_context
def _format(context: Context, form: str, *values: Any) -> str:
    if re.search(r"\*|\d{4}", form):
        raise SecurityError("it formats with a width that no prompt needs")
    return form % tuple(value if isinstance(value, int | float) else text_of(context, value) for value in values)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not -16 <= precision <= 16:
        raise SecurityError(f"it rounds to {precision} places")
    return do_round(value, precision, method)  # type: ignore[arg-type]


@pass_context
def _choice(context: Context, values: Iterable[Any]) -> Any:
    return rendering_state(context).rng.choice(values if isinstance(values, Sequence) else list(values))


def _most_frequent(values: Sequence[Any]) -> list[Any]:
    """Return the most frequent values, in the order of first occurrence, as in PromptSource."""
    counts = Counter(values)
    most = max(counts.values(), default=0)
    return [value for value, count in counts.items() if count == most]


def allowed_filters() -> dict[str, Callable[..., Any]]:
    """Return the Jinja filters that untrusted templates may use, by the name that templates write."""
    plain: Mapping[str, Callable[..., Any]] = {name: FILTERS[name] for name in PLAIN_FILTERS}
    return {
        **plain,
        **{name: _of_text(plain[name]) for name in TEXT_FILTERS},
        "choice": _choice,
        "random": _choice,
        "most_frequent": _most_frequent,
        "replace": _replace,
        "join": _join,
        "format": _format,
        "string": text_of,
        "round": _round,
        "_charged": _charged,
        "_charged_iterations": _charged_iterations,
    }
