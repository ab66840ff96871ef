"""Solved examples before the one that is asked, in training and in evaluation."""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from argument_groups import with_changes

from crosstask.datamodules import InstructionTuningDataModule, OptImlPrompt, TkInstructPrompt
from crosstask.datamodules.benchmarks import Benchmark, Split
from crosstask.datamodules.evaluation.evaluation_settings import Evaluation
from crosstask.datamodules.packing.collate import CausalRows
from crosstask.datamodules.rendering.chat import tokenize_chats
from crosstask.datamodules.rendering.demonstrations import (
    Demonstrations,
    choose_demonstrations,
    conversation_with_demonstrations,
    number_shares,
    with_demonstrations,
)
from crosstask.datamodules.rendering.example_cache import ExampleCache
from crosstask.datamodules.rendering.prompts import ChatPrompt
from crosstask.datamodules.schema import IGNORE_INDEX, Demonstration, Example, Prompt, Role, Task, Turn
from crosstask.datamodules.splits import Instances, choose_prompts, prompt_keys
from crosstask.datamodules.storage.preparation import Preparation

TASK = Task("b", "t", "QA", definition="Add.")
INSTANCE = Task("b", "t", "QA", instruction_level="instance")
PLAIN = OptImlPrompt(delimiters=("\nA:",), instructions_share=0, task_share=0, input_share=1)


def example(number: int, text: str = "", template: str | None = None) -> Example:
    return Example("t", f"e{number}{template or ''}", number, text or f"1+{number}", (f"{1 + number}",), template)


def rendered(task: Task, shown: list[Example], **options: Any) -> tuple[str, str]:
    asked = example(9)
    prompt = with_demonstrations(PLAIN, task, asked, shown, lambda: random.Random(0), " | ", **options)
    return prompt.source, prompt.target


def test_the_shares_of_the_paper_are_those_of_the_truncated_law() -> None:
    assert round(number_shares(4, 5)[0], 3) == 0.925
    assert round(number_shares(2, 5)[0], 3) == 0.671
    assert sum(number_shares(2, 5)) == pytest.approx(1)
    rng, law = random.Random(0), Demonstrations(exponent=2)
    drawn = Counter(law.draw_number(rng) for _ in range(20_000))
    assert abs(drawn[0] / 20_000 - 0.6705) < 0.012  # 3.6 standard deviations
    assert max(drawn) == 5


def test_a_tasks_definition_stands_before_its_demonstrations() -> None:
    assert rendered(TASK, []) == ("Add.\nInput: 1+9\nA:", "10")
    assert rendered(TASK, [example(1), example(2)]) == (
        "Add. | Input: 1+1\nA: 2 | Input: 1+2\nA: 3 | Input: 1+9\nA:",
        "10",
    )


def turns(*texts: str) -> tuple[Turn, ...]:
    """Turns of user and assistant in alternation, after a system turn for an odd number."""
    roles: list[Role] = ["system"] * (len(texts) % 2)
    return tuple(map(Turn, [*roles, *["user", "assistant"] * (len(texts) // 2)], texts))


def chatted(shown: list[Example], asked: Example, *, suffix_loss: bool = False) -> Prompt:
    return conversation_with_demonstrations(
        ChatPrompt(), TASK, asked, shown, lambda: random.Random(0), " | ", suffix_loss=suffix_loss
    )


def test_demonstrations_of_a_conversation_are_earlier_turns() -> None:
    asked = replace(example(9), turns=turns("Be kind.", "a", "b", "c", "d"))
    shown = [
        replace(example(1), turns=turns("Be brief.", "e", "f", "g", "h")),
        replace(example(2), turns=turns("i", "j")),
    ]
    prompt = chatted(shown, asked)
    assert prompt.turns == turns("Be kind.", "e", "f", "g", "h", "i", "j", "a", "b", "c", "d")
    assert (prompt.demonstrated, prompt.all_turns) == (3, True)
    assert chatted(shown, asked, suffix_loss=True).demonstrated == 0
    assert chatted([], asked).turns == asked.turns


def test_a_table_in_a_chat_template_has_its_definition_once() -> None:
    prompt = chatted([example(1), example(2)], example(9))
    assert prompt.turns == turns("Add.\n1+1", "2", "1+2", "3", "1+9", "10")
    assert prompt.demonstrated == 2


def test_answers_of_demonstrations_are_not_trained(tokenizer: Any) -> None:
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    prompt = chatted([example(1)], example(9))
    one, all_answers = tokenize_chats(chat, [prompt, replace(prompt, demonstrated=0)])
    assert one.holes == ()
    assert chat.decode(one.input_ids[one.n_source :]).strip() == f"10{chat.eos_token}"
    assert all_answers.input_ids.tolist() == one.input_ids.tolist()
    assert len(all_answers.holes) == 1


def test_demonstrations_of_an_instance_level_task_stand_before_the_example() -> None:
    assert rendered(INSTANCE, [example(1)]) == ("1+1\nA: 2 | 1+9\nA:", "10")


def test_a_definition_that_every_input_repeats_is_shown_once() -> None:
    task = Task("b", "t", "QA", definition="About sums.", instruction_level="instance")
    asked, shown = example(9, "About sums.\n\n1+9="), example(1, "About sums.\n\n1+1=")
    prompt = with_demonstrations(PLAIN, task, asked, [shown], lambda: random.Random(0), "\n\n")
    assert prompt.source == "About sums.\n\n1+1=\nA: 2\n\n1+9=\nA:"
    assert PLAIN(task, asked, random.Random(0)).source == "About sums.\n\n1+9=\nA:"


def test_the_suffix_loss_begins_at_the_first_demonstrations_target() -> None:
    assert rendered(TASK, [example(1), example(2)], suffix_loss=True) == (
        "Add. | Input: 1+1\nA:",
        "2 | Input: 1+2\nA: 3 | Input: 1+9\nA: 10",
    )
    assert rendered(TASK, [], suffix_loss=True) == ("Add.\nInput: 1+9\nA:", "10")


def test_text_without_a_source_gets_no_demonstrations() -> None:
    text = Example("t", "x", 7, "", ("Once upon a time.",))
    prompt = with_demonstrations(PLAIN, INSTANCE, text, [example(1)], lambda: random.Random(0), " | ")
    assert (prompt.source, prompt.target) == ("", "Once upon a time.")


def test_a_form_with_its_own_demonstrations_rejects_others() -> None:
    with pytest.raises(ValueError, match="TkInstructPrompt has no place for demonstrations of other examples"):
        with_demonstrations(TkInstructPrompt(), TASK, example(1), [example(2)], lambda: random.Random(0), "")


def test_an_example_never_demonstrates_itself_in_any_template() -> None:
    pool = [example(number, template=name) for number in range(4) for name in "xy"]
    for seed in range(50):
        shown = choose_demonstrations(pool, pool[4], 3, random.Random(seed))
        assert [e.template for e in shown] == ["x"] * 3
        assert sorted(e.index for e in shown) == [0, 1, 3]
    assert len(choose_demonstrations(pool, pool[4], 9, random.Random(0))) == 3  # no row twice, in whatever template


def test_a_row_is_dealt_with_all_its_templates() -> None:
    rows = np.repeat(np.arange(20), 3)  # 20 rows in 3 templates each
    keys = prompt_keys(example(int(row), template=name) for row in range(20) for name in "xyz")
    chosen = choose_prompts("t", keys, trained=True, validation=4, test=5, validation_prompts=7)
    by_row = [{int(rows[place]) for place in part} for part in chosen]
    assert not by_row[0] & by_row[1]
    assert not by_row[0] & by_row[2]
    assert not by_row[1] & by_row[2]
    assert len(chosen.train) == 11  # as many prompts as rows, of 33
    assert len(set(chosen.train)) == 11
    assert len(chosen.validation) == 7
    assert len(by_row[2]) == 5
    assert chosen.test == [place for place in range(60) if rows[place] in by_row[2]]  # all templates
    assert chosen == choose_prompts("t", keys, trained=True, validation=4, test=5, validation_prompts=7)


def test_every_prompt_of_the_training_rows_trains_on_request() -> None:
    rows = np.repeat(np.arange(20), 3)
    keys = prompt_keys(example(int(row), template=name) for row in range(20) for name in "xyz")
    every = choose_prompts("t", keys, trained=True, validation=4, test=5, every_prompt=True)
    held_out = {int(rows[place]) for place in [*every.validation, *every.test]}
    assert every.train == [place for place in range(60) if rows[place] not in held_out]  # 11 rows, 33 prompts
    assert len(choose_prompts("t", keys, trained=True, validation=4, test=5, every_prompt=True, limit=25).train) == 25
    plain = choose_prompts(
        "t", prompt_keys(map(example, range(20))), trained=True, validation=0, test=0, every_prompt=True, limit=7
    )
    assert plain == choose_prompts(
        "t", prompt_keys(map(example, range(20))), trained=True, validation=0, test=0, limit=7
    )


def test_examples_are_kept_while_they_are_few() -> None:
    reads = []

    def read() -> Iterator[Example]:
        reads.append(1)
        return (example(number) for number in range(10))

    few, many = ExampleCache(read), ExampleCache(read, budget=5000)
    assert list(few) == list(few)
    assert len(reads) == 1
    assert list(many) == list(many)
    assert len(reads) == 3
    assert [e.index for e in many.subset([3, 1])] == [1, 3]
    assert len(many.subset(range(10)).sample(4, (0, "t"))) == 4


class Sums(Benchmark):
    """A task that trains, one that does not, and one with demonstrations of its own."""

    name = "sums"

    def task_names(self, split: Split) -> list[str]:
        return {"train": ["seen"], "validation": [], "test": ["seen", "unseen", "published"]}[split]

    def task(self, name: str) -> Task:
        shown = (Demonstration("1+50", "51"), Demonstration("2+2", "4"))
        return Task("sums", name, name, definition="Add.", positive_examples=shown if name == "published" else ())

    def examples(self, name: str) -> Iterator[Example]:
        return (Example(name, f"{i}", i, f"1+{i}", (f"{i + 1}",)) for i in range(12 if name == "published" else 400))

    def fingerprint(self, name: str) -> str:
        return name


def sums(make: Callable[..., InstructionTuningDataModule], **arguments: Any) -> InstructionTuningDataModule:
    defaults = {
        "benchmark": Sums(),
        "prompt": PLAIN,
        "instances": {"test": 10},
        "evaluation": {"max_new_tokens": 8},
        "rows": {"length": 128},
    }
    return make(**with_changes(defaults, arguments))


def test_training_prompts_show_demonstrations_of_their_task(make_datamodule: Any) -> None:
    data = sums(make_datamodule, demonstrations=Demonstrations(exponent=2, separator="\n\n\n"))
    data.prepare_data()
    data.setup("fit")
    assert data.plan is not None
    stored, tokenizer = data.plan.stored[0], data.preparation.tokenizer
    texts = [tokenizer.decode(stored.document(place).input_ids) for place in range(len(stored))]
    numbers = Counter(max(text.count("\n\n\n") - 1, 0) for text in texts)
    data.setup("test")
    tested = [example.id for example in data.evaluation_examples("test") if example.task == "seen"]
    assert len(tested) == 10
    assert abs(numbers[0] / len(texts) - 0.67) < 0.09  # 3.6 standard deviations of 388
    for text in texts:
        inputs = [line for line in text.split("\n") if line.startswith("Input")]
        assert len(set(inputs)) == len(inputs)
        assert not any(f"Input: 1+{number}" in inputs for number in tested)
    plain = sums(make_datamodule)
    held_out = {"validated": True, "tested": True}
    folders = [d.preparation.task_folder("seen", **held_out) for d in (data, plain)]
    assert folders[0] != folders[1]


def test_evaluation_prompts_of_a_task_show_the_same_demonstrations(make_datamodule: Any) -> None:
    data = sums(make_datamodule, evaluation={"shots": 2})
    data.setup("test")
    asked: dict[str, set[str]] = {}
    tested: dict[str, list[str]] = {}
    for question in data.evaluation_examples("test"):
        tested.setdefault(question.task, []).append(question.id)
        definition, *shown, last = question.source.split("\n\n")
        assert (definition, len(shown)) == ("Add.", 2)
        assert last == f"Input: 1+{question.id}\nA:"
        asked.setdefault(question.task, set()).add("\n\n".join(shown))
    assert {task: len(shown) for task, shown in asked.items()} == {"seen": 1, "unseen": 1, "published": 1}
    assert asked["published"] == {"Input: 1+50\nA: 51\n\nInput: 2+2\nA: 4"}  # upstream's own
    for task in ("seen", "unseen"):
        (shown,) = asked[task]
        assert not any(f"Input: 1+{number}\n" in f"{shown}\n" for number in tested[task])


def test_chosen_demonstrations_come_first_in_training_and_evaluation(make_datamodule: Any, tmp_path: Path) -> None:
    def keep(*ids: str) -> str:
        chosen = {"seen": [{"exemplar": 0, "id": one, "text": ""} for one in ids]} if ids else {}
        (tmp_path / "instructions.json").write_text(json.dumps({"kind": "direct_embedder", "chosen": chosen}))
        return str(tmp_path)

    held_out = {"validated": False, "tested": True}
    first, second, *_ = sums(make_datamodule).preparation.training_examples("seen", **held_out)
    folder = keep(second.id, first.id)
    shown = [f"Input: 1+{one.id}\nA: {one.targets[0]}" for one in (second, first)]
    data = sums(
        make_datamodule,
        evaluation={"shots": 3, "chosen": folder},
        demonstrations=Demonstrations(exponent=0, most=2, chosen=folder),
    )
    data.setup("test")
    for question in data.evaluation_examples("test"):
        parts = question.source.split("\n\n")
        assert (parts[1:3] == shown) == (question.task == "seen")
        assert len(parts) == 5
    data.prepare_data()
    data.setup("fit")
    assert data.plan is not None
    stored, tokenizer = data.plan.stored[0], data.preparation.tokenizer
    numbers: Counter[int] = Counter()
    for place in range(len(stored)):
        parts = tokenizer.decode(stored.document(place).input_ids).split("\n\n\n")
        number = max(len(parts) - 2, 0)
        numbers[number] += 1
        if f"1+{first.id}\n" not in parts[-1] and f"1+{second.id}\n" not in parts[-1]:  # never an example itself
            assert parts[1:-1] == shown[:number]
    assert min(numbers[0], numbers[1], numbers[2]) > 60
    before = data.preparation.task_folder("seen", **held_out)
    keep(first.id, second.id)
    changed = sums(make_datamodule, demonstrations=Demonstrations(exponent=0, most=2, chosen=folder))
    assert changed.preparation.task_folder("seen", **held_out) != before
    [tested, *_] = [one.id for one in data.evaluation_examples("test") if one.task == "seen"]
    for ids, message in (((tested,), "are not among its training examples"), ((), "which chooses no examples")):
        keep(*ids)
        with pytest.raises(ValueError, match=message):
            sums(make_datamodule, evaluation={"shots": 2, "chosen": folder}).setup("test")
    with pytest.raises(ValueError, match=r"set evaluation\.shots to their number, got 0"):
        Evaluation(chosen=folder)


def test_demonstrations_that_do_not_fit_are_dropped_whole(make_datamodule: Any) -> None:
    data = sums(make_datamodule, evaluation={"shots": 5}, rows={"length": 64})
    data.setup("test")
    tokenizer = data.preparation.tokenizer
    for question in data.evaluation_examples("test"):
        parts = question.source.split("\n\n")
        assert parts[0] == "Add."
        assert 1 <= len(parts) - 2 < 5
        assert len(tokenizer(question.source)["input_ids"]) <= 56


def test_what_the_suffix_loss_trains_is_one_span(tokenizer: Any) -> None:
    """The document's own n_source says it: rows need no mask."""
    preparation = Preparation(
        Sums(), PLAIN, tokenizer, False, False, Instances(None, None, 0, None, 0), 0, folder=None,  # type: ignore[arg-type]
    )  # fmt: skip
    prompt = preparation.render_after(TASK, example(9), [example(1), example(2)], "\n\n\n", suffix_loss=True)
    (document,) = preparation.tokenize([prompt])
    batch = CausalRows(128, 0).collate([[document]], step_targets=0)
    trained = batch.targets[0][batch.targets[0] != IGNORE_INDEX]
    assert tokenizer.decode(trained[:-1]).strip() == "2\n\n\nInput: 1+2\nA: 3\n\n\nInput: 1+9\nA: 10"
    assert trained[-1] == tokenizer.eos_token_id
