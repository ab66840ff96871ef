"""Which answers are right, by the rule of each benchmark's authors."""

import itertools
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from crosstask.datamodules.benchmarks import Benchmark, BigBench, BigBenchHard, NaturalInstructions, Reasoning
from crosstask.datamodules.benchmarks.bigbench import FIRST_SENTENCE
from crosstask.datamodules.schema import EvaluationExample, Example, MatchRule, Task
from crosstask.lightning_modules.evaluation.answer_rules import (
    RULES,
    UPSTREAM_ERASES,
    comparable,
    exact_match,
    leaves_nothing,
)
from crosstask.lightning_modules.evaluation.answers import Answer
from crosstask.lightning_modules.evaluation.option_scores import OptionScores

# rule: (prediction, reference, whether they are equal)
KNOWN: dict[MatchRule, list[tuple[str, str, bool]]] = {
    "text": [
        (" The  cat\n", "the cat", True),
        ("Yes.", "yes", False),
        ("-5", "5", False),
        ("1.5", "15", False),
        ("?", "!", False),
        ("", "?", False),
        ("Straße", "STRASSE", True),
        ("cafe\u0301", "caf\u00e9", True),  # the same letters, composed differently
    ],
    "super_natural_instructions": [
        ("Yes.", "yes", True),
        ("the  cat", "The cat!", True),
        ("cat", "the cat", False),  # articles stay
        ("it's", "its", True),
        ("-5", "5", True),  # as upstream has it
        ("", "?", True),
    ],
    "squad": [
        ("The cat.", "a cat", True),
        ("another", "other", False),
        ("U.S.", "us", True),
        ("the", "", True),
    ],
    "bbh": [
        ("-5", "5", False),
        ("-5", "-5", True),
        ("Then A * B = -41 * -3 = 123. So the answer is 123.", "123", True),
        ("So the answer is -123.", "123", False),
        ("So the answer is (A).", "(A)", True),
        ("So the answer is (A).\nQ: What else?", "(A)", True),
        ("So the answer is Yes.", "Yes", True),
        ("yes", "Yes", False),
        ("] >", ") }", False),  # dyck_languages
        ("So the answer is ] > }.", "] > }", True),
        ("The answer is no. But then the answer is yes.", "yes", True),
    ],
    "bigbench": [("three", "3", False), ("Three", "three", False), (" three ", "three", True), ("-3", "3", False)],
    "gsm8k": [
        ("She had 48 + 24 = 72. The answer is 72", "It is half, 24. The answer is 72", True),
        ("The answer is -72", "The answer is 72", False),
        ("The answer is 7.2", "The answer is 72", False),
        ("The answer is 7.20", "The answer is 7.2", True),
        ("The answer is 2125", "The answer is 2,125", True),
        ("So 2,125 dollars. The answer is $2,125.00.", "2125", True),
        ("The answer is 72 clips.", "72", True),
        ("The answer is 20%", "20", True),
        ("The answer is \u221220", "-20", True),  # a minus sign
        ("The answer is \u201320", "20", False),  # a dash
        ("The answer is minus 20.", "-20", True),
        ("The answer is negative $20.", "20", False),
        ("The answer is - 20", "-20", True),
        ("The answer is 30 minus 10 = 20", "20", True),
        ("The answer is 18. To check: 18 * 2 = 36", "18", True),
        (r"Hence \boxed{72}.", "72", True),
        (r"Hence \boxed{1{,}000}.", "1,000", True),
        ("48 / 2 = 24\n48 + 24 = 72\n#### 72", "The answer is 72", True),
        ("The answer is 48 + 24 = 72", "72", True),
        ("First 48, then 24, so 72", "72", True),  # no marker: the last number
        ("no idea", "72", False),
        ("", "72", False),
        ("The answer is 3/4.", "3", False),
        ("The answer is 3/4 of a cup", "0.75", True),
        ("12/0x", "0", True),  # no fraction: a model may write anything
        ("The answer is 2 1/2 hours.", "2.5", True),
        ("2\u00bd", "2.5", True),
        ("1/3", "2/6", True),
        ("The answer is 12/25/2020", "12", True),  # a date is no fraction
        ("3/0", "0", True),
        (r"\boxed{\frac{1}{2}}", "2", False),
        (r"\boxed{2\dfrac12}", "2.5", True),
        ("The answer is 1e3.", "1", False),
        ("The answer is 1.5e3", "1500", True),
        ("The answer is 7 × 10^3", "7", False),
        ("25e-3", "0.025", True),
        ("The answer is -\u20b9500", "500", False),  # rupees
        (r"The answer is -US\$5.00", "-5", True),
        ("The answer is \uff11\uff0c\uff10\uff17\uff12", "1072", True),  # full-width digits and comma
        ("The answer is 1\u202f072", "1072", True),  # a narrow space between thousands
        (r"\boxed{10,\!000}", "10000", True),
        ("9" * 5000, "9" * 5000, True),
        ("The answer is 18 450 litres.", "18,450", True),  # a plain space, as in SI
        ("#### 2 300 000", "2300000", True),
        ("In 2019 340 came", "340", True),  # a year is no group of thousands
        ("The answer is 3 1/4 cups", "3.25", True),
        ("The answer is 7,5 hours", "7.5", True),
        ("The answer is 7,5 hours", "7", False),
        ("The answer is 0,125", "0.125", True),
        ("The answer is 7,500", "7500", True),
        ("The answer is 7.500", "7.5", True),
        ("The answer is 2.450.000", "2450000", True),
        ("It costs \u20ac2.450,75", "2450.75", True),
        ("The answer is 2 450,75", "2450.75", True),
        ("The answer is -7,5e2", "-750", True),
        ("The answer is 12,34,567", "1234567", True),  # India's groups
        ("The answer is 4,5,6", "4", False),  # neither a number nor three
        ("The answer is 10.0.0.1", "10", False),
    ],
    "math": [  # hendrycks/math, math_equivalence_test.py, and boxed answers
        (r"\tfrac{1}{2} +\! \frac1{72}", r"\\dfrac{1}{2} +\frac{1}{72}", True),
        (r"10\text{ units}", "10 ", True),
        (r"10\text{ units}", "100 ", False),
        (r"\$10", "10", True),
        (r"\left(x-2\right)\left(x+2\right)", "(x-2)(x+2)", True),
        ("0.1, 4, 2", "4, .1, 2", False),
        (".1", "0.1", True),
        (r"10\%", "10", True),
        (r"10\sqrt{3} + \sqrt4", r"10\sqrt3 + \sqrt{4}", True),
        (r"\frac34i", r"\frac{3}{4}i", True),
        ("5x - 7y + 11z + 4 = 0", "x + y - z + 2 = 0", False),
        ("1/2", r"\frac{1}{2}", True),
        ("-1/2", "1/2", False),
        (r"So $x = 2$, and the area is $\boxed{\dfrac{1}{2}}$.", r"We halve. The answer is \frac{1}{2}", True),
        ("The answer is $x = 4$.", "The answer is 4", True),
    ],
    "unifiedskg": [
        ("Rome, 2.0", "2, Rome", True),
        ("-2, Rome", "2, Rome", False),
        ("Rome", "rome", False),
        ("Rome, Rome", "Rome", False),
    ],
    "rationale": [
        ("Pigs cannot fly. The answer is no.", "Pigs are heavy. The answer is no", True),
        ("Pigs can fly. The answer is yes", "Pigs are heavy. The answer is no", False),
        ("No", "Pigs are heavy. The answer is no", True),
        ("The answer is: (B)", "Because. The answer is (B)", True),
    ],
}


def test_every_rule_has_known_answers() -> None:
    assert set(KNOWN) == set(RULES) == set(get_args(MatchRule))


@pytest.mark.parametrize(
    ("rule", "prediction", "reference", "equal"),
    [(rule, *answer) for rule, answers in KNOWN.items() for answer in answers],
)
def test_an_answer_is_right_as_its_authors_say(rule: MatchRule, prediction: str, reference: str, equal: bool) -> None:
    assert exact_match(prediction, [reference], rule) is equal
    assert exact_match(prediction, ["another answer", reference], rule) is equal  # one of several references


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_leaves_something_of_every_text_unless_its_authors_do_not(rule: MatchRule) -> None:
    pieces = [
        "-",
        "5",
        ".",
        ",",
        "%",
        "$",
        "?",
        "(",
        ")",
        "[]",
        " ",
        "the",
        "The answer is",
        "####",
        r"\boxed{",
        "}",
        "=",
        "é",
        "猫",
        r"\!",
    ]
    rng = random.Random(0)
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 5))) for _ in range(3000)]
    erased = [text for text in texts if leaves_nothing(rule, text)]
    assert bool(erased) == (rule in UPSTREAM_ERASES)
    for text in texts:
        assert exact_match(text, [text], rule)  # an answer equals itself
        if text.strip() and rule not in UPSTREAM_ERASES:
            assert not exact_match("", [text], rule)


def test_a_blank_reference_is_not_erased() -> None:
    assert not leaves_nothing("super_natural_instructions", " ")
    assert comparable("[]", "super_natural_instructions") == ""


@pytest.mark.parametrize(
    ("prediction", "reference", "pattern", "equal"),
    [
        ("17.", "17", r"([-+]?\d+)[.]{0,1}$", True),  # operators
        ("It is 17", "17", r"([-+]?\d+)[.]{0,1}$", True),
        ("-17", "17", r"[-+]?\d+", False),
        ("none", "17", r"[-+]?\d+", False),
        ("the cat. And the dog.", "the cat", FIRST_SENTENCE, True),
        ("She has applied for the job.", "She has applied for the job.", FIRST_SENTENCE, True),  # tense
        ("She has applied.", "She has applied for the job.", FIRST_SENTENCE, False),
    ],
)
def test_the_answer_is_the_first_match_of_a_task_s_pattern(
    prediction: str, reference: str, pattern: str, equal: bool
) -> None:
    assert exact_match(prediction, [reference], "bigbench", pattern) is equal


def example(*references: str, **fields: object) -> EvaluationExample:
    return EvaluationExample(0, "task", "category", "fully_held_out", "0", "", references)._replace(**fields)


def test_a_choice_is_read_behind_the_rationale() -> None:
    aqua = example("So it is 5. The answer is (B)", options=("(A)", "(B)"), answer=1, match="rationale")
    assert Answer.of(aqua, "As (A) is 4, not 5. The answer is (B).").accuracy == 1.0
    assert Answer.of(aqua, "As (B) is 4, not 5. The answer is (A).").accuracy == 0.0
    coqa = example("He left. The answer is the dog", metric="token_f1", match="rationale")
    assert Answer.of(coqa, "They came in, all of them. The answer is a dog").score("token_f1") == 1.0


def test_every_option_among_the_references_is_right() -> None:
    """Some tasks of BIG-bench give the best score to several choices."""
    several = example("cat", "dog", options=("cat", "pen", "dog "), answer=0, metric="accuracy")
    scores = OptionScores((-2.0, -3.0, -1.0), (-2.0, -3.0, -1.0), (-2.0, -3.0, -1.0))
    assert [Answer.chosen(several, scores, place, False).accuracy for place in range(3)] == [1.0, 0.0, 1.0]
    assert [Answer.of(several, text).accuracy for text in ("Dog.", "pen", "a cat")] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("asked", "erased"),
    [
        (example("[]", match="super_natural_instructions"), True),
        (example("[1]", "?", match="super_natural_instructions"), True),  # one of the references is enough
        (example("[1]", match="super_natural_instructions"), False),
        (example("[]"), False),
        (example("the", metric="token_f1"), True),  # SQuAD's words
    ],
)
def test_an_erased_reference_is_marked(asked: EvaluationExample, erased: bool) -> None:
    answer = Answer.of(asked, "1")
    assert answer.erased is erased
    assert answer.details().get("erased", False) is erased


needs_data = pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder")


def references(reader: Benchmark, names: Iterable[str]) -> Iterator[tuple[Task, Example]]:
    for name in names:
        task = reader.task(name)
        yield from ((task, example) for example in reader.examples(name) if not example.skipped)


@pytest.mark.real_data
@needs_data
def test_real_references_are_erased_by_super_natural_instructions_alone() -> None:
    reader = NaturalInstructions("$CROSSTASK_DATA/superni", splits="splits/bundle")
    names = [*reader.task_names("train"), *reader.task_names("test")]
    erased = Counter(
        task.name
        for task, example in references(reader, names)
        if any(leaves_nothing(task.match, reference) for reference in example.targets)
    )
    assert (erased.total(), len(erased)) == (87, 14)
    for other in (
        BigBenchHard("$CROSSTASK_DATA/bbh"),
        BigBench("$CROSSTASK_DATA/bigbench"),
        Reasoning("$CROSSTASK_DATA"),
    ):
        names = {name for split in ("train", "validation", "test") for name in other.task_names(split)}  # type: ignore[arg-type]
        for task, example in references(other, sorted(names)):
            assert not any(leaves_nothing(task.match, reference) for reference in example.targets)


@pytest.mark.real_data
@needs_data
def test_real_answers_with_the_sign_flipped_are_wrong() -> None:
    """Each other answer of the tasks whose answers are numbers or brackets."""
    reader = BigBenchHard("$CROSSTASK_DATA/bbh")
    for name in ("multistep_arithmetic_two", "dyck_languages"):
        answers = sorted({example.targets[0] for _, example in references(reader, [name])})
        assert all(exact_match(f"So the answer is {answer}.", [answer], "bbh") for answer in answers)
        flipped = [answer[1:] if answer.startswith("-") else f"-{answer}" for answer in answers]
        assert not any(
            exact_match(*pair, "bbh") for pair in zip(flipped, [[answer] for answer in answers], strict=True)
        )
        assert not any(exact_match(one, [other], "bbh") for one, other in itertools.pairwise(answers))


@pytest.mark.real_data
@needs_data
def test_the_answer_of_every_rationale_is_its_number() -> None:
    """As openai/grade-school-math extracts it, in the 3,819 problems of the files."""
    published = re.compile(r"#### (-?[0-9.,]+)")
    for split in ("train", "test"):
        lines = (Path(os.environ["CROSSTASK_DATA"]) / f"gsm8k/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        examples = Reasoning("$CROSSTASK_DATA", split=split).examples("gsm8k")  # type: ignore[arg-type]
        for line, example in zip(lines, examples, strict=True):
            answer = json.loads(line)["answer"]
            expected = published.search(answer)[1].replace(",", "")  # type: ignore[index]
            assert comparable(answer, "gsm8k") == comparable(example.targets[0], "gsm8k") == expected
