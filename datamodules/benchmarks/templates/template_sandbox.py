"""A Jinja sandbox for untrusted templates: an allowlist of names, and a budget for memory and time.

A template reads one row and writes ``prompt ||| answer``. It may use the methods and functions listed below
and the filters of ``template_filters.py``; access to any other attribute fails, even without a call. Everything that a
template creates is charged to a budget (``template_budget.py``), so that no template can fill memory or run for long:

- a new value (of a call, filter, operator or list) costs its size, including the values it contains;
- an iteration of a loop and a call cost the template's length, since each may write that much;
- products (``*``, ``replace``, ``join``) and searches that take as long (``rfind``, ``rsplit``) are charged before they
  are computed; numbers and formats are limited.

Work that creates nothing (a search, a comparison, a sum) is free. Once, it takes little, since it is linear in values
that were paid for or are in the row; in a loop, it ends after some seconds of processor time.

Jinja's sandbox forbids changing lists and dicts. Twenty-four of PromptSource's 279 files build lists with ``append``,
``update`` or ``pop``, so these three are allowed, on copies that are used for one rendering.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jinja2 import Undefined, UndefinedError, nodes
from jinja2.runtime import Context, LoopContext, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace, missing
from jinja2.visitor import NodeTransformer

from .template_budget import TemplateFault, growth, rendering_state
from .template_filters import allowed_filters, text_of

LONGEST_INTEGER = 4096
"""Maximum number of bits of a number that a template may compute: a product of long numbers takes seconds."""

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

SEPARATOR = "\ufdd0"  # a noncharacter that replaces ||| in templates, so that ||| in a row does not split a prompt


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
        state = rendering_state(context)
        state.spend(_product_size(operator, left, right))
        if isinstance(left, int) and isinstance(right, int) and _bits(operator, left, right) > LONGEST_INTEGER:
            raise TemplateFault(f"it makes numbers of more than {LONGEST_INTEGER} bits")
        value = super().call_binop(context, operator, left, right)
        state.pay(value)
        return value

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        state = rendering_state(__context)
        state.spend(state.iteration_cost)
        owner, method = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            state.spend(growth(owner, method, args))
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


class ChargeInserter(NodeTransformer):
    """Rewrites the syntax tree of an untrusted Jinja template, so that all that it creates is charged to its budget.

    Filters that charge are put around new values and loops. ``|||``, which separates prompt and answer, becomes
    SEPARATOR, so that ``|||`` in the text of a row separates nothing.

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


def _environment() -> _Sandbox:
    environment = _Sandbox(undefined=_Missing, finalize=text_of, optimized=False)
    environment.filters = allowed_filters()
    environment.globals = {
        "range": environment.globals["range"],
        "dict": partial(dict),  # not the class itself, whose attributes would be accessible
        "namespace": Namespace,
        "zip": zip,
    }
    return environment


ENVIRONMENT = _environment()
