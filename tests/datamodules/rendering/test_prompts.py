import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from crosstask.datamodules.rendering.prompts import (
    OPT_IML_DELIMITERS,
    OptImlPrompt,
    PromptForm,
    TkInstructPrompt,
    rendering_rng,
)
from crosstask.datamodules.schema import Demonstration, Example, Prompt, Task

TASK = Task(
    benchmark="super_natural_instructions",
    name="task7_rhyme",
    category="Rhyme Generation",
    definition=" Write a word that rhymes with the given word \n",
    positive_examples=(
        Demonstration("cat", "hat", "Both end in -at"),
        Demonstration("Is it blue?", "shoe!", "The sound is the same."),
    ),
    negative_examples=(Demonstration("dog", "cat", "They share no sound"),),
)
EXAMPLE = Example(task="task7_rhyme", id="task7-0", index=0, input="house ", targets=("mouse \n",))
PLAIN = OptImlPrompt(delimiters=("\nA:",), instructions_share=0, task_share=0, input_share=0)


def many(n: int, **changes: object) -> list[Example]:
    return [replace(EXAMPLE, id=f"task7-{i}", **changes) for i in range(n)]


def render(form: PromptForm, example: Example, task: Task = TASK, seed: int = 0) -> Prompt:
    return form(task, example, rendering_rng(seed, task.name, example.id))


@pytest.mark.parametrize(
    ("form", "source"),
    [
        (PLAIN, "Write a word that rhymes with the given word\nhouse\nA:"),
        (
            replace(PLAIN, instructions_share=1, input_share=1, delimiters=(" Answer:",)),
            "Instructions: Write a word that rhymes with the given word\nInput: house Answer:",
        ),
        (replace(PLAIN, task_share=1), "Task: Write a word that rhymes with the given word\nhouse\nA:"),
    ],
)
def test_an_opt_iml_prompt_reads_as_in_the_paper(form: OptImlPrompt, source: str) -> None:
    assert render(form, EXAMPLE) == Prompt(source, "mouse")


def test_an_instance_level_example_is_its_own_instruction() -> None:
    task = replace(TASK, instruction_level="instance", definition="not shown")
    form = replace(PLAIN, delimiters=("\noutput:",), instructions_share=1, input_share=1)
    example = replace(EXAMPLE, input="The bomb exploded. What is the cause?")
    assert render(form, example, task).source == "The bomb exploded. What is the cause?\noutput:"


def test_a_dialogue_without_input_has_no_source() -> None:
    task = replace(TASK, instruction_level="instance", definition="")
    assert render(OptImlPrompt(), replace(EXAMPLE, input=""), task) == Prompt("", "mouse")


def test_no_delimiter_follows_a_colon() -> None:
    form = OptImlPrompt()
    for example in many(50, input="Tables: singer (age)\nSQL query: "):
        assert render(form, example).source.endswith("\nSQL query:")
    # Elsewhere a delimiter always follows, so the loop above says something.
    assert all(render(form, example).source.endswith(OPT_IML_DELIMITERS) for example in many(50))


def test_the_eight_delimiters_are_drawn_equally() -> None:
    form = replace(PLAIN, delimiters=OPT_IML_DELIMITERS)
    body = "Write a word that rhymes with the given word\nhouse"
    drawn = Counter(render(form, example).source.removeprefix(body) for example in many(8000))
    assert set(drawn) == {
        "\nAnswer:",
        " Answer:",
        "\nA:",
        " A:",
        "\nOutput:",
        " Output:",
        "\nanswer:",
        "\noutput:",
    }
    # 1000 each; five standard deviations of a binomial are 5 * sqrt(8000 * 1/8 * 7/8) = 148.
    assert all(abs(count - 1000) < 148 for count in drawn.values()), drawn


def test_field_names_keep_their_shares_and_are_independent() -> None:
    counts: Counter[tuple[str, bool]] = Counter()
    for example in many(10_000):
        first, second = render(replace(OptImlPrompt(), delimiters=("\nA:",)), example).source.split("\n")[:2]
        counts[first.split(" ")[0], second.startswith("Input: ")] += 1
    expected = {
        ("Instructions:", True): 900,
        ("Instructions:", False): 2100,
        ("Task:", True): 300,
        ("Task:", False): 700,
        ("Write", True): 1800,
        ("Write", False): 4200,
    }
    # Five standard deviations of the largest: 5 * sqrt(10000 * 0.42 * 0.58) = 247.
    assert counts.keys() == expected.keys()
    assert all(abs(counts[key] - expected[key]) < 247 for key in expected), counts


TK_INSTRUCT = """\
Definition: Write a word that rhymes with the given word.

 Positive Example 1 -
Input: cat.
 Output: hat.

 Positive Example 2 -
Input: Is it blue?
 Output: shoe!

Now complete the following example -
Input: house.
Output: """

TK_INSTRUCT_ALL = """\
task7_rhyme. Definition: Write a word that rhymes with the given word.

 Positive Example 1 -
Input: cat.
 Output: hat.
 Explanation: Both end in -at.

 Negative Example 1 -
Input: dog.
 Output: cat.
 Explanation: They share no sound.

Now complete the following example -
Input: house.
Output: """


@pytest.mark.parametrize(
    ("form", "source"),
    [
        (TkInstructPrompt(), TK_INSTRUCT),
        (TkInstructPrompt(positive_examples=9), TK_INSTRUCT),
        (TkInstructPrompt(1, negative_examples=1, explanations=True, task_name=True), TK_INSTRUCT_ALL),
        (
            TkInstructPrompt(0, definition=False),
            "Now complete the following example -\nInput: house.\nOutput: ",
        ),
    ],
)
def test_a_tk_instruct_prompt_reads_as_the_released_encoding(form: TkInstructPrompt, source: str) -> None:
    # No full stop is added to the target, only to what is read.
    assert render(form, EXAMPLE) == Prompt(source, "mouse")


def test_tk_instruct_reads_a_real_layout_with_newlines_inside() -> None:
    task = Task(
        benchmark="super_natural_instructions",
        name="task020_mctaco_span_based_question",
        category="Answerability Classification",
        definition="The answer will be 'yes' if the sentence answers the question. Otherwise, it should be 'no'.",
        positive_examples=(Demonstration("Sentence: He left at 1 pm. \nQuestion: When did he leave?", "Yes."),),
    )
    example = Example(task.name, "task020-12", 0, "Sentence: It is not moving yet. \nQuestion: How often", ("No.",))
    assert render(TkInstructPrompt(), example, task) == Prompt(
        "Definition: The answer will be 'yes' if the sentence answers the question. Otherwise, it should be 'no'.\n"
        "\n"
        " Positive Example 1 -\n"
        "Input: Sentence: He left at 1 pm. \nQuestion: When did he leave?\n"
        " Output: Yes.\n"
        "\n"
        "Now complete the following example -\n"
        "Input: Sentence: It is not moving yet. \nQuestion: How often.\n"
        "Output: ",
        "No.",
    )


@pytest.mark.parametrize("form", [OptImlPrompt(), TkInstructPrompt()])
def test_one_seed_gives_one_text_in_any_order(form: PromptForm) -> None:
    examples = many(100, targets=tuple("abcdefgh"))
    forward = [render(form, example) for example in examples]
    backward = [render(form, example) for example in reversed(examples)][::-1]
    assert forward == backward
    assert forward != [render(form, example, seed=1) for example in examples]


def test_every_argument_of_the_generator_matters() -> None:
    first = [
        rendering_rng(*arguments).random()
        for arguments in [(0, "a", "b", 0), (1, "a", "b", 0), (0, "ab", "", 0), (0, "a", "c", 0), (0, "a", "b", 1)]
    ]
    assert len(set(first)) == 5
    # Written down once: a change would render every prepared task anew, in silence.
    assert first[0] == 0.5039725039128478


@pytest.mark.parametrize("form", [OptImlPrompt(), TkInstructPrompt()])
def test_references_are_drawn_equally_and_blank_ones_never(form: PromptForm) -> None:
    drawn = Counter(render(form, example).target for example in many(3000, targets=("a", " ", "b", "c")))
    assert drawn.keys() == {"a", "b", "c"}
    # 1000 each; five standard deviations are 5 * sqrt(3000 * 1/3 * 2/3) = 129.
    assert all(abs(count - 1000) < 129 for count in drawn.values()), drawn


@pytest.mark.parametrize("targets", [(), ("", " \n")])
def test_an_example_without_reference_is_rejected_by_name(targets: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="example 'task7-0' of task 'task7_rhyme' has no reference"):
        render(OptImlPrompt(), replace(EXAMPLE, targets=targets))


def test_a_fingerprint_tells_forms_and_settings_apart() -> None:
    forms: list[PromptForm] = [OptImlPrompt(), PLAIN, TkInstructPrompt(), TkInstructPrompt(definition=False)]
    assert len({form.fingerprint() for form in forms}) == 4
    assert OptImlPrompt().fingerprint() == OptImlPrompt(delimiters=tuple(OPT_IML_DELIMITERS)).fingerprint()
    assert len(OptImlPrompt().fingerprint()) == 64


def test_a_form_that_could_not_be_found_again_has_no_fingerprint() -> None:
    class NoDataclass(PromptForm):
        def __call__(self, task: Task, example: Example, rng: random.Random) -> Prompt:
            return Prompt("", "")

    @dataclass(frozen=True)
    class HoldsAnObject(NoDataclass):
        anything: object = object()

    for form in (NoDataclass(), HoldsAnObject()):
        with pytest.raises(ValueError, match="must be a frozen dataclass whose fields print their values"):
            form.fingerprint()


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        (OptImlPrompt, {"delimiters": ()}, "delimiters must name at least one"),
        (OptImlPrompt, {"instructions_share": 0.8, "task_share": 0.4}, "got 0.8, 0.4"),
        (OptImlPrompt, {"input_share": -0.1}, "input_share -0.1"),
        (OptImlPrompt, {"task_share": float("nan")}, "shares must lie in"),
        (TkInstructPrompt, {"negative_examples": -1}, "got 2 and -1"),
    ],
)
def test_impossible_settings_are_rejected(form: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        form(**settings)
