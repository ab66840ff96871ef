"""A Jinja sandbox for untrusted templates: an allowlist of names, and a budget for memory and time.

A template reads one row and writes ``prompt ||| answer``. It may use the filters, functions and methods listed below;
access to any other attribute fails, even without a call. Everything that a template creates is charged to a budget, so
that no template can fill memory or run for long:

- a new value (of a call, filter, operator or list) costs its size, including the values it contains;
- an iteration of a loop and a call cost the template's length, since each may write that much;
- products (``*``, ``replace``, ``join``) and searches that take as long (``rfind``, ``rsplit``) are charged before they
  are computed; numbers and formats are limited.

Work that creates nothing (a search, a comparison, a sum) is free. Once, it takes little, since it is linear in values
that were paid for or are in the row; in a loop, it ends after some seconds of processor time.

Jinja's sandbox forbids changing lists and dicts. Twenty-four of PromptSource's 279 files build lists with ``append``,
``update`` or ``pop``, so these three are allowed, on copies that are used for one rendering.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from jinja2 import Undefined, UndefinedError, nodes, pass_context
from jinja2.filters import FILTERS, do_round
from jinja2.runtime import Context, LoopContext, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace, missing
from jinja2.visitor import NodeTransformer

from ..rows.row import holds_null

BUDGET = 2**24
"""Budget of one rendering in characters, list items and iterations; published templates need a thousandth of it."""

SECONDS = 5.0
"""Most processor time of one rendering; published templates need a thousandth of it."""

CHECKED = 16
"""Charges and iterations between two reads of the clock, which cost as much as a small charge."""

LONGEST_INTEGER = 4096
"""Most bits of a number that a template may compute: a product of long numbers takes seconds."""

METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        """capitalize count endswith find index isdigit isnumeric isupper islower join lower lstrip partition replace
        rfind rsplit rstrip split splitlines startswith strip title upper""".split()
    ),
    list: frozenset("append count index pop".split()),
    tuple: frozenset("count index".split()),
    dict: frozenset("get items keys pop update values".split()),
    LoopContext: frozenset("changed cycle depth depth0 first index index0 last length nextitem previtem".split())
    | frozenset("revindex revindex0".split()),
}
"""Allowed methods and attributes, by type."""

PLAIN_FILTERS = """abs capitalize count d default dictsort first float int items last length list lower map max min
    reject rejectattr reverse select selectattr sort sum title trim unique upper wordcount""".split()
"""Jinja's filters whose results are no larger than their inputs; the other allowed filters are defined below."""

TEXT_FILTERS = "capitalize lower title trim upper wordcount".split()
"""The filters among PLAIN_FILTERS that turn any value into text."""

SEPARATOR = "\ufdd0"  # a noncharacter that replaces ||| in templates, so that ||| in a row does not split a prompt
STATE = "\0state"  # a key that no template can write


class TemplateFault(ValueError):
    """A template cannot be used: it does not compile, accesses a forbidden name, or exceeds its budget."""


class WritesNull(ValueError):
    """A template would write a null value as the word None."""


class State:
    """Budget that is left to one rendering, and its random generator.

    Args:
        rng: Generator of random choices within the template.
        iteration_cost: Charge for each iteration of a loop and each call.
    """

    def __init__(self, rng: Random, iteration_cost: int) -> None:
        self.rng, self.iteration_cost, self.left = rng, iteration_cost, BUDGET
        self._deadline, self._calls = time.thread_time() + SECONDS, 0

    def spend(self, cost: int) -> None:
        """Charge a cost to the budget.

        Raises:
            TemplateFault: The budget or the processor time is exceeded.
        """
        self.left -= cost
        if self.left < 0:
            raise TemplateFault("it makes more text, lists or iterations than any prompt needs")
        self.watch()

    def watch(self) -> None:
        """Read the clock, once in ``CHECKED`` calls.

        Raises:
            TemplateFault: The processor time is exceeded.
        """
        self._calls += 1
        if self._calls % CHECKED == 0 and time.thread_time() > self._deadline:
            raise TemplateFault(f"it ran for {SECONDS:.0f} s of processor time, more than any prompt needs")

    def pay(self, value: Any) -> None:
        """Charge the size of a value and of all values that it contains."""
        if isinstance(value, str):
            self.spend(len(value))
        elif isinstance(value, dict):
            self.spend(8)
            for pair in value.items():
                self.pay(pair)
        elif isinstance(value, list | tuple):
            self.spend(8 * (len(value) + 1))
            for item in value:
                self.pay(item)
        else:
            self.watch()


def _state(context: Context) -> State:
    state = context.parent[STATE]
    assert isinstance(state, State)
    return state


class ColumnError(UndefinedError):
    """A template reads a name that is not a column of the row."""


class _Missing(Undefined):
    """Undefined value: a missing column is an error, a missing entry of a value renders as "", as in PromptSource."""

    def __new__(cls, hint: str | None = None, obj: Any = missing, name: str | None = None, exc: Any = None) -> Any:
        if obj is missing and hint is None:
            return StrictUndefined(name=name, exc=ColumnError)
        return Undefined(hint, obj, name)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with an allowlist of methods, errors for forbidden access, and charges for new values."""

    intercepted_binops = frozenset("+ * ** %".split())

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return attr in METHODS.get(type(obj), ())

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._reject_private(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._reject_private(obj, argument)
        return super().getitem(obj, argument)

    def _reject_private(self, obj: Any, name: Any) -> None:
        """Reject dunder names and every attribute of a function, whether it exists or not."""
        function = callable(obj) and not isinstance(obj, LoopContext | Undefined)
        if function or (isinstance(name, str) and name.startswith("__") and not isinstance(obj, dict)):
            self.unsafe_undefined(obj, name)

    def wrap_str_format(self, value: Any) -> None:
        """Templates cannot reach it: ``format`` is not in METHODS."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        if type(obj) is dict and attribute in obj:  # a field with the name of a method
            return obj[attribute]
        raise SecurityError(f"it accesses the attribute {attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        state = _state(context)
        state.spend(_product_size(operator, left, right))
        if isinstance(left, int) and isinstance(right, int) and _bits(operator, left, right) > LONGEST_INTEGER:
            raise TemplateFault(f"it makes numbers of more than {LONGEST_INTEGER} bits")
        value = super().call_binop(context, operator, left, right)
        state.pay(value)
        return value

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        state = _state(__context)
        state.spend(state.iteration_cost)
        owner, method = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            state.spend(_growth(owner, method, args))
        elif isinstance(owner, list | dict):
            state.pay([*args, kwargs])  # the call may store them
        value = super().call(__context, __obj, *args, **kwargs)
        state.pay(value)
        return value


def _product_size(operator: str, left: Any, right: Any) -> int:
    """Return the largest size of the text or list that an operator creates."""
    if operator == "*":
        sizes = [len(side) if isinstance(side, str | list | tuple) else side for side in (left, right)]
        return (
            abs(sizes[0] * sizes[1]) if all(isinstance(size, int) for size in sizes) and sizes != [left, right] else 0
        )
    if operator == "%" and isinstance(left, str):
        raise SecurityError("it formats a text with %")
    return 0


def _bits(operator: str, left: int, right: int) -> int:
    """Return the largest number of bits of an operator's result."""
    if operator == "**":
        return left.bit_length() * max(right, 0)
    return left.bit_length() + right.bit_length()


def _growth(text: str, method: str, args: Sequence[Any]) -> int:
    """Return the most characters that a method of `text` adds to it, or compares with its argument."""
    if method == "replace" and len(args) >= 2 and all(isinstance(arg, str) for arg in args[:2]):
        return text.count(args[0]) * len(args[1])
    if method == "join" and args and isinstance(args[0], str | list | tuple):
        return len(text) * len(args[0])
    if method in ("rfind", "rsplit") and args and isinstance(args[0], str):
        return len(text) * len(args[0])  # Python's search from the end tries every place
    return 0


class ChargeInserter(NodeTransformer):
    """Rewriter of a template's syntax tree: adds charges for new values and iterations, and SEPARATOR for |||.

    Args:
        name: Name of the template, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        # Other templates are files; autoescape changes the text type.
        if isinstance(
            node, nodes.Import | nodes.FromImport | nodes.Include | nodes.Extends | nodes.EvalContextModifier
        ):
            raise TemplateFault(f"template {self.name!r} must not use {type(node).__name__}")
        super().generic_visit(node, *args, **kwargs)
        creates = isinstance(node, nodes.Concat | nodes.List | nodes.Dict) or (
            isinstance(node, nodes.Tuple) and node.ctx == "load"
        )
        if isinstance(node, nodes.Concat):
            node.nodes = [_filter(part, "string") for part in node.nodes]
        if creates or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
            return _filter(node, "_charged")
        if isinstance(node, nodes.Filter) and node.node is not None:
            return _filter(node, "_charged")
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_charged_iterations")
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        node.data = node.data.replace("|||", SEPARATOR)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, str):
            node.value = node.value.replace("|||", SEPARATOR)
        return node


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context
def _charged(context: Context, value: Any) -> Any:
    _state(context).pay(value)
    return value


@pass_context
def _charged_iterations(context: Context, values: Iterable[Any]) -> Iterator[Any] | Sequence[Any]:
    state = _state(context)
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
def _text(context: Context, value: Any) -> str:
    """Return the text of a row's value in a prompt; null, and values of other types than JSON's, are rejected."""
    if not isinstance(value, str | int | float | list | tuple | dict | None):
        if isinstance(value, Undefined):
            return str(value)
        raise TypeError(f"no text for a {type(value).__name__}")
    _state(context).pay(value)
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
    text, old, new = (_text(context, value) for value in (text, old, new))
    _state(context).spend(_growth(text, "replace", (old, new)))
    return text.replace(old, new, count)


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        values = [context.environment.getitem(value, attribute) for value in values]
    return _text(context, d).join([_text(context, value) for value in _charged_items(context, values, len(d))])


def _charged_items(context: Context, values: Iterable[Any], separator: int) -> Iterator[Any]:
    for value in values:
        _state(context).spend(separator + 1)
        yield value


@pass_context
def _format(context: Context, form: str, *values: Any) -> str:
    if re.search(r"\*|\d{4}", form):
        raise SecurityError("it formats with a width that no prompt needs")
    return form % tuple(value if isinstance(value, int | float) else _text(context, value) for value in values)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not -16 <= precision <= 16:
        raise SecurityError(f"it rounds to {precision} places")
    return do_round(value, precision, method)  # type: ignore[arg-type]


@pass_context
def _choice(context: Context, values: Iterable[Any]) -> Any:
    return _state(context).rng.choice(values if isinstance(values, Sequence) else list(values))


def _most_frequent(values: Sequence[Any]) -> list[Any]:
    """Return the most frequent values, in the order of first occurrence, as in PromptSource."""
    counts = Counter(values)
    most = max(counts.values(), default=0)
    return [value for value, count in counts.items() if count == most]


def _environment() -> _Sandbox:
    environment = _Sandbox(undefined=_Missing, finalize=_text, optimized=False)
    filters: dict[str, Callable[..., Any]] = {"choice": _choice, "random": _choice, "most_frequent": _most_frequent}
    filters |= {
        "replace": _replace,
        "join": _join,
        "format": _format,
        "string": _text,
        "round": _round,
        "_charged": _charged,
        "_charged_iterations": _charged_iterations,
    }
    plain = {name: FILTERS[name] for name in PLAIN_FILTERS}
    environment.filters = plain | {name: _of_text(plain[name]) for name in TEXT_FILTERS} | filters
    environment.globals = {
        "range": environment.globals["range"],
        "dict": partial(dict),  # not the class itself, whose attributes would be accessible
        "namespace": Namespace,
        "zip": zip,
    }
    return environment


ENVIRONMENT = _environment()
