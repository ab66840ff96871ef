"""What the real files render to, pinned: a prompt to read for each family, and a digest over all of its examples.

BIG-bench and BIG-Bench Hard ask that their text stands nowhere else, so that only their digests do.
"""

import hashlib
import os
from collections.abc import Callable

import pytest

from crosstask.datamodules.benchmarks import (
    MMLU,
    Benchmark,
    BigBench,
    BigBenchHard,
    Dialogue,
    OptEvaluation,
    Reasoning,
    StructuredKnowledge,
)
from crosstask.datamodules.rendering.prompts import OptImlPrompt, rendering_rng
from crosstask.datamodules.rendering.skipped_examples import skip_reason
from crosstask.datamodules.schema import Prompt

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("CROSSTASK_DATA" not in os.environ, reason="set CROSSTASK_DATA to the data folder"),
]

DATA = "$CROSSTASK_DATA"
FORM = OptImlPrompt(delimiters=("\nA:",), instructions_share=0, task_share=0, input_share=0)

DIGESTS: list[tuple[Callable[[], Benchmark], int, int, str]] = [
    (lambda: MMLU(f"{DATA}/mmlu"), 57, 6569, "42c232f8c45d8ea6"),
    (lambda: BigBench(f"{DATA}/bigbench"), 16, 7126, "63383fea8285c03a"),
    (lambda: BigBenchHard(f"{DATA}/bbh", prompting="answer_only"), 27, 6511, "6dfa31027d5fec34"),
    (lambda: Reasoning(DATA), 7, 14612, "c4e5b3a13b8d8393"),
    (lambda: StructuredKnowledge(DATA, split="validation"), 4, 839, "f1282162c9fd9fbb"),
    (lambda: Dialogue(DATA), 2, 335, "4dd176217fa198ce"),
    (lambda: OptEvaluation(DATA), 17, 13873, "405125ed9e73a74c"),
]


def prompts(benchmark: Benchmark, name: str) -> list[Prompt]:
    task = benchmark.task(name)
    examples = [example for example in benchmark.examples(name) if not skip_reason(task, example)]
    return [FORM(task, example, rendering_rng(0, name, example.id)) for example in examples]


@pytest.mark.parametrize(("make", "tasks", "examples", "digest"), DIGESTS)
def test_all_examples_of_a_family_stay_as_they_are(
    make: Callable[[], Benchmark], tasks: int, examples: int, digest: str
) -> None:
    benchmark = make()
    names = [name for split in ("train", "validation", "test") for name in benchmark.task_names(split)]  # type: ignore[arg-type]
    found = [example for name in names for example in benchmark.examples(name)]
    assert (len(names), len(found)) == (tasks, examples)
    read = [repr((e.id, e.input, e.targets, e.options, e.answer, e.skipped)) for e in found]
    assert hashlib.sha256("\n".join(read).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("make", "name", "source", "target"),
    [
        (
            lambda: MMLU(f"{DATA}/mmlu"),
            "abstract_algebra",
            "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
            "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.\n"
            "A. 0\nB. 4\nC. 2\nD. 6\nAnswer:",
            "B",
        ),
        (
            lambda: Reasoning(DATA),
            "gsm8k",
            "Answer the following question by reasoning step by step.\nNatalia sold clips to 48 of her friends in "
            "April, and then she sold half as many clips in May. How many clips did Natalia sell altogether in April "
            "and May?\nA:",
            "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May. "
            "The answer is 72",
        ),
        (
            lambda: StructuredKnowledge(DATA, split="validation"),
            "spider",
            "How many singers do we have? ; structured knowledge: | concert_singer | stadium : stadium_id , location "
            ", name , capacity , highest , lowest , average | singer : singer_id , name , country , song_name , "
            "song_release_year , age , is_male | concert : concert_id , concert_name , theme , stadium_id , year | "
            "singer_in_concert : concert_id , singer_id\nSQL query:",
            "select count(*) from singer",
        ),
        (
            lambda: Dialogue(DATA),
            "taskmaster4",
            "",
            "one Chai Latte please\nis the order displayed correct and ready to send off to be made?\nyes\n"
            "ok, then you can pick up your drink over at the bar in a few minutes.",
        ),
        (
            lambda: OptEvaluation(DATA),
            "winobias_pro_type1",
            "The developer argued with the designer because he did not like the design.\n"
            'What does the pronoun "he" refer to?\nA:',
            "the developer",
        ),
    ],
)
def test_a_prompt_reads_as_it_should(make: Callable[[], Benchmark], name: str, source: str, target: str) -> None:
    assert prompts(make(), name)[0] == Prompt(source, target)
