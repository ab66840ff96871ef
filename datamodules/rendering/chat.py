"""Tokenization of conversations by a tokenizer's own chat template: token ids, and the spans of the answers.

A question and its answer, whose trained part is underlined; the template writes the rest::

    <|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\nHi<|im_end|>
                                                             ------------

An answer begins where the prompt of its turn ends, and includes the special token that ends it. Templates rewrite what
they are given (they trim texts, drop earlier reasoning, add empty reasoning), so answers are not searched by their
text. They are located by the first of these that the template allows:

- the template's own ``{% generation %}`` marks;
- the text between a user's message and the answer, if it holds a special token, which no message can;
- the prompts of all turns, if each is a prefix of the conversation.
"""

import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, TemplateError, nodes
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from ..schema import Prompt, TokenizedExample, Turn
from .special_tokens import HIDDEN, MARK, encode, special_tokens, text_tokenizer

SECONDS = 20.0
"""Maximum time in seconds of one rendering; templates need a thousandth of it."""

DATE = datetime(2024, 7, 26)
"""The date in templates that write today's (``strftime_now``): that of Llama 3.1's template. Prompts are tokenized
once, and an evaluation on another day must read what was trained."""

COMPUTED = "map with a computed name"
SEARCHES = {"striptags", "urlize", "wordcount", "wordwrap", COMPUTED}
"""Filters that search a text in one call, which no other thread of Python can interrupt, for hours if it is long."""

_ENDLESS: set[str] = set()
"""Templates that took longer: the conversations of a file do not each wait for one."""

Span = tuple[int, int]
"""(first character, character after the last) of an answer in a rendered conversation."""

Result = TypeVar("Result")

_QUESTION, _ANSWER = f"{HIDDEN}question;", f"{HIDDEN}answer;"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_END_GENERATION = re.compile(r"\{%-?\s*endgeneration\s*-?%\}")


def chat_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
    """Render the turns by the tokenizer's chat template, up to where the assistant's next answer begins.

    The template's special tokens are marked, so that ``special_tokens.encode`` encodes them as such. The text of a
    special token in a message stays text.

    Raises:
        ValueError: The tokenizer has no chat template, or it rejects the turns.
    """
    return _marked(tokenizer, _render(tokenizer, _hidden(tokenizer, _accepted(tokenizer, turns)), prompt=True)[0])


def chat_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token with which the chat template ends an answer; the tokenizer's eos if it writes none.

    Raises:
        ValueError: The tokenizer has no chat template.
    """
    end = _end_text(tokenizer, _template(tokenizer))
    return tokenizer.eos_token_id if end is None else tokenizer.get_vocab()[end]


def chat_joint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the white space that the chat template writes between a prompt and its answer, e.g. Llama 2's space.

    Raises:
        ValueError: The tokenizer has no chat template.
    """
    turns = [Turn("user", _QUESTION), Turn("assistant", _ANSWER)]
    prompt, _ = _render(tokenizer, turns[:1], prompt=True)
    whole, _ = _render(tokenizer, turns)
    begin, answer, _ = whole.partition(_ANSWER)
    between = begin.removeprefix(prompt)
    return between if answer and begin != between and not between.strip() else ""


def chat_parts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the token ids that the chat template writes before a user's message, before the answer, and after it.

    A scorer's pairs of instruction and response are put together from these and the tokens of the two texts.

    Raises:
        ValueError: The tokenizer has no chat template, or merges its text with that of messages, e.g. a space.
    """
    text, _ = _render(tokenizer, [Turn("user", _QUESTION), Turn("assistant", _ANSWER)])
    text = _marked(tokenizer, text)
    head, _, rest = text.partition(_QUESTION)
    joint, _, tail = rest.partition(_ANSWER)
    *parts, question, answer, whole = encode(
        tokenizer, [head, joint, tail, "red", "cat", text.replace(_QUESTION, "red").replace(_ANSWER, "cat")]
    )
    if [*parts[0], *question, *parts[1], *answer, *parts[2]] != whole:
        raise ValueError(
            f"{_of(tokenizer)} merges the text around a message with the message, e.g. a space before it: pairs cannot "
            "be put together from the tokens of their parts; use a model whose template has a line break or a special "
            "token there"
        )
    return parts


def tokenize_chats(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[TokenizedExample]:
    """Tokenize conversations for training: the ids of ``apply_chat_template``, up to the end of the last target.

    The targets of a prompt are all answers of the assistant, except demonstrations (the first ``Prompt.demonstrated``
    answers) and answers with ``Turn.trained`` false (weight 0 in the file). If ``Prompt.all_turns`` is false, only the
    last answer is a target. The tokens between two targets are in ``TokenizedExample.holes``: the model reads them, and
    no loss is computed on them.

    Args:
        tokenizer: The model's tokenizer.
        prompts: Prompts with turns.

    Returns:
        One tokenized example per prompt, in the order of the prompts.

    Raises:
        ValueError: The tokenizer has no chat template, or its answers cannot be located exactly.
    """
    located = [conversation_spans(tokenizer, prompt.turns) for prompt in prompts]
    encodings = text_tokenizer(tokenizer).encode_batch([text for text, _ in located], add_special_tokens=False)
    documents = []
    for prompt, (_, spans), encoding in zip(prompts, located, encodings, strict=True):
        if prompt.all_turns:
            spans = _trained_spans(tokenizer, prompt, spans)
        begins, ends = np.array(encoding.offsets).reshape(-1, 2).T
        # A token may hold a space of the template and the beginning of the answer: it is a target.
        places = [(np.searchsorted(ends, a, side="right"), np.searchsorted(begins, b)) for a, b in spans if a < b]
        bounds = [(int(begin), int(end)) for begin, end in places if begin < end]
        if not bounds:
            raise ValueError(f"{_of(tokenizer)} writes no answer of the conversation that ends {prompt.target[:40]!r}")
        chosen = bounds if prompt.all_turns else bounds[-1:]
        holes = [(end, begin) for (_, end), (begin, _) in pairwise(chosen) if end < begin]
        ids = np.array(encoding.ids[: chosen[-1][1]], dtype=np.int64)
        documents.append(TokenizedExample(ids, chosen[0][0], holes=tuple(holes)))
    return documents


def _trained_spans(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, spans: Sequence[Span]) -> list[Span]:
    """Return the spans of the answers that are trained."""
    trained = [turn.trained for turn in prompt.turns if turn.role == "assistant"][prompt.demonstrated :]
    kept = list(spans[prompt.demonstrated :])
    if all(trained):
        return kept
    if len(kept) != len(trained):
        raise ValueError(
            f"{_of(tokenizer)} marks {len(kept)} spans for {len(trained)} answers, some of which have weight 0 and "
            "cannot be left out: mark every answer once with {% generation %}"
        )
    return [span for span, train in zip(kept, trained, strict=True) if train]


def tokenize_chat_sources(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the token ids of conversations up to where their last answer begins."""
    return encode(tokenizer, [chat_prompt(tokenizer, prompt.turns[:-1]) for prompt in prompts])


def conversation_spans(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> tuple[str, list[Span]]:
    """Render a conversation by the chat template, and return the text and where its answers are in it.

    Special tokens of the template are marked, so that ``special_tokens.encode`` encodes them as such. A span is (first
    character, character after the last).

    Raises:
        ValueError: The answers cannot be located exactly in the chat template.
    """
    hidden = _hidden(tokenizer, _accepted(tokenizer, turns))
    text, generated = _render(tokenizer, hidden)
    template = _template(tokenizer)
    if _GENERATION.search(template):
        bounds = [0, *(place for span in generated for place in span), len(text)]
        parts = [_marked(tokenizer, text[begin:end]) for begin, end in pairwise(bounds)]
        places = np.cumsum([0, *map(len, parts)]).tolist()
        return "".join(parts), list(zip(places[1:-1:2], places[2:-1:2], strict=True))
    marked = _marked(tokenizer, text)
    end = _end_text(tokenizer, template)
    if end is None:
        raise ValueError(f"{_of(tokenizer)} ends an answer without a special token: a model would not learn to stop")
    answers = [place for place, turn in enumerate(hidden) if turn.role == "assistant"]
    opener = _opener(tokenizer, template)
    begins = [match.end() for match in re.finditer(re.escape(opener), marked)] if MARK in opener else []
    if len(begins) != len(answers):
        prefixes = [_marked(tokenizer, _render(tokenizer, hidden[:place], prompt=True)[0]) for place in answers]
        if not all(map(marked.startswith, prefixes)):
            raise ValueError(
                f"{_of(tokenizer)} renders a conversation otherwise than its prompts, so that {len(answers)} answers "
                "cannot be located: mark them with {% generation %} in the template"
            )
        begins = list(map(len, prefixes))
    spans = []
    for begin, following in pairwise([*begins, len(marked)]):
        place = marked.find(MARK + end, begin, following)
        if place < 0:
            raise ValueError(f"{_of(tokenizer)} ends one of {len(answers)} answers without {end}")
        spans.append((begin, place + len(MARK + end)))
    return marked, spans


def _accepted(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns; if the template has no system turn (Gemma), it begins the user's first message."""
    if turns[0].role != "system" or len(turns) < 2 or _has_system(tokenizer, _template(tokenizer)):
        return list(turns)
    system, user, *others = turns
    return [replace(user, content=f"{system.content}\n\n{user.content}"), *others]


@lru_cache(maxsize=8)
def _has_system(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    try:
        text, _ = _render(tokenizer, [Turn("system", _ANSWER), Turn("user", _QUESTION)])
    except ValueError:
        text = ""
    if _ANSWER not in text:
        warnings.warn(f"{_of(tokenizer)} has no system turns: they begin the user's first message", stacklevel=2)
    return _ANSWER in text


@lru_cache(maxsize=8)
def _opener(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Return the marked text between a user's message and the answer."""
    return _marked(tokenizer, _render(tokenizer, [Turn("user", _QUESTION)], prompt=True)[0].rpartition(_QUESTION)[2])


@lru_cache(maxsize=8)
def _end_text(tokenizer: PreTrainedTokenizerBase, template: str) -> str | None:
    """Return the special token behind an answer; None if the template writes none, or no answers."""
    text, _ = _render(tokenizer, [Turn("user", _QUESTION), Turn("assistant", _ANSWER)])
    _, kept, behind = text.rpartition(_ANSWER)
    special = [token for token in special_tokens(tokenizer) if token in behind]
    return min(special, key=behind.index) if kept and special else None


def _hidden(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with the texts of special tokens replaced by placeholders."""
    special, pattern = _special(tokenizer)
    return [
        replace(turn, content=pattern.sub(lambda match: f"{HIDDEN}{special.index(match[0])};", turn.content))
        for turn in turns
    ]


def _marked(tokenizer: PreTrainedTokenizerBase, rendered: str) -> str:
    """Return a rendered text with marks before the template's special tokens, and placeholders resolved."""
    special, pattern = _special(tokenizer)
    marked = pattern.sub(lambda match: MARK + match[0], rendered)
    return re.sub(f"{HIDDEN}(\\d+);", lambda match: special[int(match[1])], marked)


def _special(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], re.Pattern[str]]:
    special = sorted(special_tokens(tokenizer), key=len, reverse=True)
    return special, re.compile("|".join(map(re.escape, special)))


def _render(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, prompt: bool = False
) -> tuple[str, list[Span]]:
    """Return the text of ``apply_chat_template``, and the spans that the template marks as generated.

    Raises:
        ValueError: There is no template, or it rejects the turns, or takes longer than ``SECONDS``.
    """
    template = _template(tokenizer)
    if template in _ENDLESS:
        raise ValueError(f"{_of(tokenizer)} does not end")
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        rendered: Any = _within(  # its annotation says text, but it returns (texts, spans)
            SECONDS,
            lambda: render_jinja_template(
                [messages],
                chat_template=template,
                return_assistant_tokens_mask=bool(_GENERATION.search(template)),
                add_generation_prompt=prompt,
                **tokenizer.special_tokens_map,  # type: ignore[arg-type]  # names that templates read
            ),
        )
    except TimeoutError as error:
        _ENDLESS.add(template)
        raise ValueError(f"{_of(tokenizer)} takes longer than {SECONDS:g} s for {len(turns)} turns") from error
    except Exception as error:  # a template's expressions raise errors of any kind
        roles = ", ".join(turn.role for turn in turns)
        raise ValueError(f"{_of(tokenizer)} rejects turns of {roles}: {error}") from error
    texts, spans = rendered
    return texts[0], list(spans[0]) if spans else []


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, which conversations are rendered by: "
            "save one as chat_template.jinja in its folder, or name a model that was tuned on chats"
        )
    try:
        return _pure(str(tokenizer.get_chat_template()))
    except ValueError as error:
        raise ValueError(f"{_of(tokenizer)} {error}: correct chat_template.jinja in its folder") from error


@lru_cache(maxsize=8)
def _pure(template: str) -> str:
    """Return a template that is a function of its messages, with a fixed date.

    Raises:
        ValueError: It chooses at random, or computes what nothing could interrupt.
    """
    plain = _END_GENERATION.sub("", _GENERATION.sub("", template))
    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateError:
        return template  # its rendering raises the error
    filters = set(_filters(parsed))
    if "random" in filters:
        raise ValueError("chooses at random, so that no prompt would be the same twice")
    if searches := sorted(filters & SEARCHES):
        raise ValueError(f"uses the filter {searches[0]}, which can take hours and which no prompt needs")
    products = [
        node
        for node in parsed.find_all(nodes.Mul)
        if not isinstance(node.left, nodes.Const) and not isinstance(node.right, nodes.Const)
    ]
    if products or any(parsed.find_all(nodes.Pow)):
        raise ValueError("computes powers or products, which can take hours and which no prompt needs")
    calls = [call for call in parsed.find_all(nodes.Call) if getattr(call.node, "name", None) == "strftime_now"]
    if not calls:
        return template
    formats = [call.args[0].value for call in calls if call.args and isinstance(call.args[0], nodes.Const)]
    if len(formats) < len(calls):
        raise ValueError("writes today's date in a format that it computes")
    dates = {form: DATE.strftime(form) for form in formats}
    return f"{{% macro strftime_now(form) %}}{{{{ {dates!r}[form] }}}}{{% endmacro %}}{{{{ '' }}}}{template}"


def _filters(parsed: nodes.Template) -> Iterator[str]:
    """Yield the names of a template's filters, and of those that ``map`` applies."""
    for node in parsed.find_all(nodes.Filter):
        yield node.name
        if node.name == "map" and node.args:
            applied = node.args[0]
            yield str(applied.value) if isinstance(applied, nodes.Const) else COMPUTED


def _within(seconds: float, function: Callable[[], Result]) -> Result:
    """Return the result of a function that ends in time; one that does not keeps running in its thread.

    Raises:
        TimeoutError: It does not end in time.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    if errors:
        raise errors[0]
    return results[0]


def _of(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the chat template of {tokenizer.name_or_path!r}"
