import random
import re

import pytest

from crosstask.datamodules.benchmarks.templates.jinja_templates import (
    DoesNotApply,
    MissingColumn,
    PromptTemplate,
    RenderedPrompt,
)
from crosstask.datamodules.benchmarks.templates.template_budget import BUDGET, TemplateFault
from crosstask.datamodules.benchmarks.templates.template_sandbox import ENVIRONMENT


def render(jinja: str, choices: str | None = None, **fields: object) -> RenderedPrompt:
    return PromptTemplate("this one", jinja, choices).render(fields, random.Random(0))


def written(expression: str, **fields: object) -> str:
    return render("x ||| " + expression, **fields).target


def test_a_row_becomes_prompt_answer_and_choices() -> None:
    rendered = render(
        "{{premise}} Does it follow that {{hypothesis}}?\n||| {% if label != -1 %}{{answer_choices[label]}}{% endif %}",
        "Yes ||| No",
        premise="It rains.",
        hypothesis="it is wet",
        label=1,
    )
    assert rendered == RenderedPrompt("It rains. Does it follow that it is wet?", "No", ("Yes", "No"))


def test_choices_may_come_from_the_row() -> None:
    rendered = render(
        '{{q}} {{answer_choices|join(" or ")}}? ||| {{answer_choices[label]}}',
        '{{options|join("|||")}}',
        q="Which",
        options=["a", "b"],
        label=0,
    )
    assert rendered == RenderedPrompt("Which a or b?", "a", ("a", "b"))


def test_the_separator_in_a_row_splits_nothing() -> None:
    rendered = render("{{text}} ||| {{answer_choices[0]}}", "{{text}} ||| no", text="a ||| b")
    assert rendered == RenderedPrompt("a ||| b", "a ||| b", ("a ||| b", "no"))


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("{% set l = [] %}{% for w in words %}{{ l.append(w|upper) or '' }}{% endfor %}{{ l|join('-') }}", "A-B"),
        ("{% for w in words %}{{ loop.index }}{{ w }}{% endfor %}", "1a2b"),
        ("{% for a, b in zip(words, words[1:]) %}{{ a ~ b }}{% endfor %}", "ab"),
        ("{% set ns = namespace(n=0) %}{% for w in words %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ range(3)|map('string')|join(',') }}", "0,1,2"),
        ("{{ '%0.1f'|format(number) }}", "2.5"),
        ("{{ (number * 3)|round|int }} {{ 2.345|round(1, 'floor') }} {{ 2**10 }}", "8 2.3 1024"),
        ("{{ people|selectattr('age', 'equalto', 3)|map(attribute='name')|first }}", "Ann"),
        ("{{ ['a','b','b']|most_frequent|choice }}", "b"),
        ("{{ people[0].name.split('n')|length }} {{ people[0]['items'] }}", "3 7"),
        ("{{ people[7].name or 'nobody' if false else 'empty' }}{{ people[0].nickname }}", "empty"),
        ("{% if words[0] == 'b' %}{% set found = 1 %}{% endif %}[{{ found }}]", "[]"),
        ("{{ number }} {{ nothing or 'no one' }} {{ words }}", "2.5 no one ['a', 'b']"),
        ("{{ a_b }}", "joined"),
        ("{% macro shout(x) %}{{ x }}!{% endmacro %}{{ shout(words[0]) }}", "a!"),
    ],
)
def test_what_published_templates_do_is_possible(expression: str, result: str) -> None:
    row = {"words": ["a", "b"], "number": 2.5, "nothing": None, "people": [{"name": "Ann", "age": 3, "items": 7}]}
    assert written(expression, **row, **{"a-b": "joined"}) == result


def test_chance_comes_from_the_generator_alone() -> None:
    template = PromptTemplate("chance", "{{ words|choice }}{{ words|random }} ||| x")
    row = {"words": list("abcdefgh")}
    drawn = [template.render(row, random.Random(seed)).source for seed in range(20)]
    assert drawn == [template.render(row, random.Random(seed)).source for seed in range(20)]
    assert len(set(drawn)) > 5


def test_a_row_is_not_changed_by_its_templates() -> None:
    row: dict[str, object] = {"words": ["a"], "map": {"k": 1}}
    template = PromptTemplate(
        "greedy", "{{ words.append('b') or '' }}{{ map.pop('k') }}{{ map.update({'n': 2}) or '' }}{{ words }} ||| x"
    )
    assert template.render(row, random.Random(0)).source == "1['a', 'b']"
    assert row == {"words": ["a"], "map": {"k": 1}}


# From the published collections of template injections (HackTricks, PayloadsAllTheThings) and jinja's own advisories.
ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''['__cla' ~ 'ss__'].__mro__[1].__subclasses__() }}",
    "{{ [].__class__.__base__.__subclasses__()[40]('/etc/passwd').read() }}",
    "{{ range.__init__.__globals__ }}",
    "{{ dict.mro() }}",
    "{{ dict.__base__ }}",
    "{{ zip.__subclasses__() }}",
    "{{ namespace.__init__.__globals__.os }}",
    "{{ self.__init__.__globals__.__builtins__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ config.items() }}",
    "{{ request.application.__globals__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{% set f = ''.format %}{{ f }}",
    "{{ '%s'|format('x').__class__ }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ ['a']|sort(attribute='__class__') }}",
    "{{ ['a']|selectattr('__class__')|list }}",
    "{{ ['a']|join(',', attribute='__class__') }}",
    "{{ ['a']|map('attr', '__class__')|list }}",
    "{% for x in [1] %}{{ loop.__class__ }}{{ loop._iterator }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func }}",
    "{{ ([1]|map('string')).gi_frame.f_globals }}",
    "{{ [].append.__self__ }}",
    "{{ words.sort() }}",
    "{{ words.clear() }}",
    "{{ nothing.mro }}{{ (1).real }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import popen %}",
    "{% extends 'base' %}",
    "{% autoescape true %}{{ ('a' ~ 'b').__class__ }}{% endautoescape %}",
    "{{ 'a'|xmlattr }}",
    "{{ ''|string|safe }}",
]


@pytest.mark.parametrize("expression", ESCAPES)
def test_an_escape_fails_with_the_templates_name(expression: str) -> None:
    with pytest.raises((TemplateFault, MissingColumn), match="'this one'"):
        written(expression + " ok", words=["b", "a"], nothing=None)


BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ [0] * 10**9 }}",
    "{{ 10**(10**10) }}",
    "{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n > 1 }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ range(10**12)|list }}",
    "{% set ns = namespace(t='a') %}{% for i in range(99) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
    "{% set ns = namespace(t='aa') %}{% for i in range(99) %}{% set ns.t = ns.t.replace('a', ns.t) %}{% endfor %}",
    "{% set ns = namespace(t='aa') %}{% for i in range(99) %}{% set ns.t = ns.t|replace('a', ns.t) %}{% endfor %}",
    "{% set ns = namespace(t='aa') %}{% for i in range(99) %}{% set ns.t = ns.t.join(ns.t) %}{% endfor %}",
    "{% set ns = namespace(t='aa') %}{% for i in range(99) %}{% set ns.t = ns.t|join(ns.t) %}{% endfor %}",
    "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l }}",
    "{% set l = [1] %}{% for i in l %}{% if l.append(l) %}{% endif %}{% endfor %}{{ l.append(l) or l }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '%*d'|format(1000000000, 1) }}",
    "{{ '%1000000000d' % 1 }}",
    "{% for i in range(2000) %}" + "x" * 1000 + "{% endfor %}",
    "{% set t %}{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}{% endset %}{{ t|length }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ 'x'|center(10**9) }}",
    "{{ 'x'|indent(10**9) }}",
]


@pytest.mark.parametrize("expression", BOMBS, ids=range(len(BOMBS)))
def test_a_bomb_is_stopped_in_time(expression: str) -> None:
    with pytest.raises(TemplateFault, match="'this one'"):
        written(expression)


WORK = [
    "{% if 'b' in text * 9 %}{% endif %}",
    "{% set x = text.strip('a') %}",
    "{% set x = numbers|sum %}",
    "{% set x = numbers|sort|first %}",
    "{% if numbers.count(3) %}{% endif %}",
    "{% if -1 in numbers %}{% endif %}",
    "{% if numbers == numbers|reverse|list %}{% endif %}",
    "{% set x = text|wordcount %}{{ loop.length or '' }}",
    "{% set x = (text ~ 'b').rfind('b' ~ text) %}",
]


@pytest.mark.parametrize("work", WORK)
def test_work_on_large_values_is_stopped_in_time(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask.datamodules.benchmarks.templates.template_budget.SECONDS", 0.2)
    with pytest.raises(TemplateFault, match="'this one' was stopped"):
        written("{% for i in range(99999) %}" + work + "{% endfor %}", text="a" * 99_999, numbers=list(range(99_999)))


def test_the_most_frequent_of_many_are_found_at_once() -> None:
    words = [str(number) for number in range(50_000)] * 2
    assert ENVIRONMENT.filters["most_frequent"]([*words, "7"]) == ["7"]
    assert ENVIRONMENT.filters["most_frequent"](words) == words[:50_000]


def test_a_long_row_is_no_bomb() -> None:
    text = "word " * 60_000
    loop = "{% for w in text.split() %}{% if loop.index0 % 1000 == 0 %}{{ w }}{% endif %}{% endfor %}"
    assert written("{{ text|replace('word', 'term') }}" + loop, text=text).count("word") == 60
    assert len(text) * 20 < BUDGET


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{{ a }} ||| ", "template 'this one' does not apply"),
        ("||| {{ a }}", "template 'this one' does not apply"),
        ("{{ a }}", "template 'this one' does not apply"),
        ("{{ a }} ||| b ||| c", "template 'this one' does not apply"),
        ("{% if a == 'no' %}x ||| y{% endif %}", "template 'this one' does not apply"),
        ("{{ a + 1 }} ||| b", "template 'this one' fails: TypeError"),
        ("{{ l[9].b.c }} ||| b", "template 'this one' fails: UndefinedError"),
        ("{{ 1 / 0 }} ||| b", "template 'this one' fails: ZeroDivisionError"),
        (
            "{{ '\\ud83d' }} ||| b",
            "template 'this one' writes half of a surrogate pair, which is not a character",
        ),
    ],
)
def test_a_template_that_does_not_apply_says_so(jinja: str, message: str) -> None:
    with pytest.raises(DoesNotApply, match=f"^{re.escape(message)}$"):
        render(jinja, a="text", l=[])


@pytest.mark.parametrize(
    "jinja",
    [
        "Who is {{ nothing }}? ||| x",
        "{{ nothing ~ '!' }} ||| x",
        "x ||| {{ nothing | upper }}",
        "{{ [1, nothing] | join(', ') }} ||| x",
        "{{ record }} ||| x",
        "{{ record.who | string }} ||| x",
        "{{ score }} ||| x",
        "{{ 'so ' ~ (score | string | replace('a', 'b')) }} ||| x",
    ],
)
def test_a_null_of_a_row_is_not_written_as_a_word(jinja: str) -> None:
    with pytest.raises(DoesNotApply, match=r"^template 'this one' would write a null of the row as the word None$"):
        render(jinja, nothing=None, record={"who": None}, score=float("nan"))


def test_a_template_may_ask_whether_a_value_is_null() -> None:
    jinja = "{% if nothing is none %}{{ nothing or 'nobody' }}{{ nothing|default('!', true) }}{% endif %} ||| None"
    assert render(jinja, nothing=None)[:2] == ("nobody!", "None")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(
        MissingColumn, match="'this one' reads a column: 'hypotheses' is undefined; the row has hypothesis, premise"
    ):
        render("{{ premise }} {{ hypotheses }} ||| x", premise="a", hypothesis="b")
    with pytest.raises(MissingColumn, match="'hypotheses' is undefined"):
        render("{% if hypotheses %}x{% endif %} y ||| x", premise="a")
    assert render("{{ hypotheses|default('none') }} ||| x").source == "none"
    with pytest.raises(MissingColumn, match="a column 'answer_choices', a name that templates reserve"):
        render("{{ a }} ||| x", answer_choices=["b"])


@pytest.mark.parametrize("jinja", ["{{ a", "{% if a %}", "{{ a|nofilter }} ||| x", "{% do a %}"])
def test_a_template_that_does_not_compile_is_named(jinja: str) -> None:
    with pytest.raises(TemplateFault, match="template 'this one' does not compile: "):
        PromptTemplate("this one", jinja)
