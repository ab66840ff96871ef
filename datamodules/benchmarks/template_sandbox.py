"""jinja's sandbox with a price list: what a stranger's template may name, and what it pays for what it makes.

A template reads one row and writes ``prompt ||| answer``. It may use the filters, functions and methods named below and
nothing else: any other attribute fails, whether it is used or only named. Everything it makes is paid from a budget, so
that no template can fill memory or run for long:

- a value that is made (by a call, a filter, an operator, a list) costs its size, also that of what it holds;
- a round of a loop or a call costs the template's length, since it may write that much;
- products (``*``, ``replace``, ``join``) are paid before they are made; numbers and formats have a longest length.

jinja's sandbox forbids changing lists and dicts. Twenty-four of PromptSource's 279 files build lists with ``append``,
``update`` or ``pop``, so these three are let through, on copies that live for one rendering.
"""

import re
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

BUDGET = 2**24
"""Characters, list places and rounds that one rendering may spend; prompts of published templates need a thousandth."""

LONGEST_INTEGER = 4096
"""Bits of a number that a template may make: a product of long numbers takes seconds."""

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
"""The methods and attributes a template may name, by the type that has them."""

PLAIN_FILTERS = """abs capitalize count d default dictsort first float int items last length list lower map max min
    reject rejectattr reverse select selectattr sort sum title trim unique upper wordcount""".split()
"""Filters of jinja whose results are no larger than what they are given; others are written here."""

SEPARATOR = "\ufdd0"  # a noncharacter: it stands for ||| in templates, so that ||| in a row does not split a prompt
STATE = "\0state"  # no template can name it


class TemplateFault(ValueError):
    """The template cannot be used at all: it does not compile, reaches what it must not, or exceeds its budget."""


class State:
    """What is left to one rendering, and its source of chance."""

    def __init__(self, rng: Random, round_cost: int) -> None:
        self.rng, self.round_cost, self.left = rng, round_cost, BUDGET

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise TemplateFault("it makes more text, lists or rounds of loops than any prompt needs")

    def pay(self, value: Any) -> None:
        """Spend the size of a value and of all that it holds."""
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


def _state(context: Context) -> State:
    state = context.parent[STATE]
    assert isinstance(state, State)
    return state


class ColumnError(UndefinedError):
    """A name that stands for no column."""


class _Nothing(Undefined):
    """What is not there: a missing column is an error, a missing entry of a value is empty, as in PromptSource."""

    def __new__(cls, hint: str | None = None, obj: Any = missing, name: str | None = None, exc: Any = None) -> Any:
        if obj is missing and hint is None:
            return StrictUndefined(name=name, exc=ColumnError)
        return Undefined(hint, obj, name)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja's sandbox, with methods listed instead of guessed, errors instead of silence, and a price on values."""

    intercepted_binops = frozenset("+ * ** %".split())

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return attr in METHODS.get(type(obj), ())

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._reject_reaching(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._reject_reaching(obj, argument)
        return super().getitem(obj, argument)

    def _reject_reaching(self, obj: Any, name: Any) -> None:
        """Refuse names of Python's own and anything of a function, even where nothing is found under the name."""
        function = callable(obj) and not isinstance(obj, LoopContext | Undefined)
        if function or (isinstance(name, str) and name.startswith("__") and not isinstance(obj, dict)):
            self.unsafe_undefined(obj, name)

    def wrap_str_format(self, value: Any) -> None:
        """Never reached by a template: ``format`` is no method of METHODS."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        if type(obj) is dict and attribute in obj:  # a field that is called like a method
            return obj[attribute]
        raise SecurityError(f"it reaches for the attribute {attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        state = _state(context)
        state.spend(_product(operator, left, right))
        if isinstance(left, int) and isinstance(right, int) and _bits(operator, left, right) > LONGEST_INTEGER:
            raise TemplateFault(f"it makes numbers of more than {LONGEST_INTEGER} bits")
        made = super().call_binop(context, operator, left, right)
        state.pay(made)
        return made

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        state = _state(__context)
        state.spend(state.round_cost)
        owner, method = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            state.spend(_growth(owner, method, args))
        elif isinstance(owner, list | dict):
            state.pay([*args, kwargs])  # they may come to stay
        made = super().call(__context, __obj, *args, **kwargs)
        state.pay(made)
        return made


def _product(operator: str, left: Any, right: Any) -> int:
    """What an operator will make, at most."""
    if operator == "*":
        sizes = [len(side) if isinstance(side, str | list | tuple) else side for side in (left, right)]
        return (
            abs(sizes[0] * sizes[1]) if all(isinstance(size, int) for size in sizes) and sizes != [left, right] else 0
        )
    if operator == "%" and isinstance(left, str):
        raise SecurityError("it formats a text with %")
    return 0


def _bits(operator: str, left: int, right: int) -> int:
    """The length of the number that an operator will make, at most."""
    if operator == "**":
        return left.bit_length() * max(right, 0)
    return left.bit_length() + right.bit_length()


def _growth(text: str, method: str, args: Sequence[Any]) -> int:
    """What a method of `text` will make, at most, where that is more than the text."""
    if method == "replace" and len(args) >= 2 and all(isinstance(arg, str) for arg in args[:2]):
        return text.count(args[0]) * len(args[1])
    if method == "join" and args and isinstance(args[0], str | list | tuple):
        return len(text) * len(args[0])
    return 0


class Charges(NodeTransformer):
    """Puts a price on what a template's tree makes, and ||| out of the rows' reach."""

    def __init__(self, name: str) -> None:
        self.name = name

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        # Other templates are files; autoescape changes what text is.
        if isinstance(
            node, nodes.Import | nodes.FromImport | nodes.Include | nodes.Extends | nodes.EvalContextModifier
        ):
            raise TemplateFault(f"template {self.name!r} must not use {type(node).__name__}")
        super().generic_visit(node, *args, **kwargs)
        makes = isinstance(node, nodes.Concat | nodes.List | nodes.Dict) or (
            isinstance(node, nodes.Tuple) and node.ctx == "load"
        )
        if makes or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
            return _filter(node, "_made")
        if isinstance(node, nodes.Filter) and node.node is not None:
            return _filter(node, "_made")
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_rounds")
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
def _made(context: Context, value: Any) -> Any:
    _state(context).pay(value)
    return value


@pass_context
def _rounds(context: Context, values: Iterable[Any]) -> Iterator[Any] | Sequence[Any]:
    state = _state(context)
    if isinstance(values, str | list | tuple | dict | range):
        state.spend(state.round_cost * len(values))
        return list(values)  # the template may append to what it loops over
    return _paid_rounds(values, state)


def _paid_rounds(values: Iterable[Any], state: State) -> Iterator[Any]:
    for value in values:
        state.spend(state.round_cost)
        yield value


@pass_context
def _text(context: Context, value: Any) -> str:
    """The text that stands in a prompt for a value of a row; of a value that only Python knows, none."""
    if not isinstance(value, str | int | float | list | tuple | dict | None):
        if isinstance(value, Undefined):
            return str(value)
        raise TypeError(f"no text for a {type(value).__name__}")
    _state(context).pay(value)
    return str(value)


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = (_text(context, value) for value in (text, old, new))
    _state(context).spend(_growth(text, "replace", (old, new)))
    return text.replace(old, new, count)


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        values = [context.environment.getitem(value, attribute) for value in values]
    return _text(context, d).join([_text(context, value) for value in _spaced(context, values, len(d))])


def _spaced(context: Context, values: Iterable[Any], separator: int) -> Iterator[Any]:
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
    """All values that occur most often, in the order of their first place, as PromptSource defines it."""
    counts = Counter(values)
    return [value for value, count in counts.items() if count == max(counts.values())]


def _environment() -> _Sandbox:
    environment = _Sandbox(undefined=_Nothing, finalize=_text, optimized=False)
    own: dict[str, Callable[..., Any]] = {"choice": _choice, "random": _choice, "most_frequent": _most_frequent}
    own |= {
        "replace": _replace,
        "join": _join,
        "format": _format,
        "string": _text,
        "round": _round,
        "_made": _made,
        "_rounds": _rounds,
    }
    environment.filters = {name: FILTERS[name] for name in PLAIN_FILTERS} | own
    environment.globals = {
        "range": environment.globals["range"],
        "dict": partial(dict),  # not the class, which has attributes of its own
        "namespace": Namespace,
        "zip": zip,
    }
    return environment


ENVIRONMENT = _environment()
