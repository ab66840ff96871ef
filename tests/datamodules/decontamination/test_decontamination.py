"""Shared n-grams between training and evaluation tasks: planted ones are found, and nothing but them."""

import json
import os
import random
import re
import signal
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosstask.cli import main
from crosstask.datamodules.benchmarks import Benchmark, Split
from crosstask.datamodules.benchmarks.levels.generalization_levels import TaskSplit, apply_decisions
from crosstask.datamodules.benchmarks.levels.overlap_decisions import COLUMNS, Decisions, read_decisions
from crosstask.datamodules.decontamination.contamination_report import (
    ContaminatedPair,
    compare,
    markdown,
    write_decisions,
)
from crosstask.datamodules.decontamination.ngrams import ngrams
from crosstask.datamodules.decontamination.overlap import Document, index_evaluation, overlap, overlaps
from crosstask.datamodules.decontamination.task_texts import TaskTexts
from crosstask.datamodules.schema import Example, Task
from crosstask.datamodules.splits import Instances

WORDS = [f"w{number}" for number in range(20_000)]


def passage(rng: random.Random, words: int, vocabulary: list[str] = WORDS) -> str:
    return " ".join(rng.choices(vocabulary, k=words))


def documents(rng: random.Random, count: int, words: int, vocabulary: list[str] = WORDS) -> list[Document]:
    return [Document(str(i), (passage(rng, words, vocabulary), "a short answer")) for i in range(count)]


def brute_force(texts: Iterable[str], n: int) -> set[tuple[str, ...]]:
    found = set()
    for text in texts:
        words = re.findall(r"[a-z0-9]+", text.lower())
        found |= {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
    return found


def test_ngrams_equal_those_of_a_word_list() -> None:
    texts = ["The cat sat. The CAT!", "", "one", "a-b c_d (e) the cat", "naïve “quoted” words — and a dash"]
    found = ngrams(texts, 2)
    words = [(int(text), found.words(i)) for i, text in enumerate(found.texts)]
    assert words == [
        (0, "the cat"),
        (0, "cat sat"),
        (0, "sat. the"),
        (0, "the cat"),
        (3, "a-b"),
        (3, "b c"),
        (3, "c_d"),
        (3, "d (e"),
        (3, "e) the"),
        (3, "the cat"),
        (4, "naïve “quoted"),
        (4, "quoted” words"),
        (4, "words — and"),
        (4, "and a"),
        (4, "a dash"),
    ]
    cats = [found.hashes[i] for i in (0, 3, 9)]
    assert len(set(cats)) == 1
    assert len(set(found.hashes.tolist())) == len(words) - 2


def test_hashes_do_not_depend_on_company_or_place() -> None:
    rng = random.Random(0)
    text = passage(rng, 40)
    alone = ngrams([text], 13).hashes
    among = ngrams([passage(rng, 300), text, passage(rng, 5)], 13)
    np.testing.assert_array_equal(among.hashes[among.texts == 1], alone)


def test_every_planted_overlap_is_found_and_nothing_else() -> None:
    rng = random.Random(1)
    evaluation = {name: documents(rng, 1000, 60) for name in ("clean", "leaked")}
    training = documents(rng, 2000, 60)
    planted = rng.sample(range(1000), 1000)
    for number, place in enumerate(planted):
        words = evaluation["leaked"][place].texts[0].upper().split()
        begin = rng.randrange(len(words) - 12)
        shared = ", ".join(words[begin : begin + 13])
        training[number] = Document(f"train {number}", (f"{passage(rng, 9)} {shared}! {passage(rng, 9)}",))
    index = index_evaluation(evaluation)
    found = overlap(index, "training", training)
    assert found.examples == 2000
    np.testing.assert_array_equal(found.hits, np.arange(1000, 2000))
    assert {index.tasks[index.task_of[shared.evaluation]] for shared in found.evidence} == {"leaked"}
    for shared in found.evidence:
        example = evaluation["leaked"][shared.evaluation - 1000]
        assert " ".join(re.findall(r"\w+", shared.words)) in example.texts[0]
        assert shared.train_id == f"train {planted.index(shared.evaluation - 1000)}"


def test_twelve_shared_words_are_no_overlap() -> None:
    shared = passage(random.Random(2), 12)
    index = index_evaluation({"e": [Document("0", (f"x {shared} y",))]})
    assert not overlap(index, "t", [Document("0", (f"a {shared} b",))]).hits.size
    assert overlap(index, "t", [Document("0", (f"x {shared} b",))]).hits.tolist() == [0]


@pytest.mark.parametrize("n", [4, 5])
def test_hits_equal_brute_force_on_two_thousand_by_two_thousand(n: int) -> None:
    rng = random.Random(3)
    few = WORDS[:25]  # so few words that many n-grams are shared by chance
    evaluation = {name: documents(rng, 1000, 12, few) for name in "ab"}
    training = documents(rng, 2000, 12, few)
    owners = defaultdict(set)
    for number, document in enumerate(evaluation["a"] + evaluation["b"]):
        for gram in brute_force(document.texts, n):
            owners[gram].add(number)
    trained = set().union(*(brute_force(document.texts, n) for document in training))
    expected = sorted(set().union(*(owners[gram] for gram in trained if gram in owners)))
    found = overlap(index_evaluation(evaluation, n), "t", training)
    assert found.hits.tolist() == expected
    assert 0 < len(expected) < 2000


def test_no_ngram_spans_two_texts_or_two_examples() -> None:
    words = passage(random.Random(4), 13).split()
    index = index_evaluation({"e": [Document("0", (" ".join(words),))]})
    split = [Document("0", (" ".join(words[:6]), " ".join(words[6:])))]
    apart = [Document("0", (" ".join(words[:6]),)), Document("1", (" ".join(words[6:]),))]
    assert not overlap(index, "t", split).hits.size
    assert not overlap(index, "t", apart).hits.size
    assert index.short.tolist() == [False]


def test_short_examples_are_counted() -> None:
    index = index_evaluation({"e": [Document("0", ("too short",)), Document("1", (passage(random.Random(5), 13),))]})
    assert index.short.tolist() == [True, False]


def test_an_empty_side_is_no_overlap() -> None:
    assert not overlap(index_evaluation({"e": []}), "t", [Document("0", (passage(random.Random(6), 20),))]).hits.size
    assert overlap(index_evaluation({"e": documents(random.Random(7), 2, 20)}), "t", []).examples == 0


def read_task(name: str) -> list[Document]:
    return documents(random.Random(name), 50, 30, WORDS[:40])


def test_two_processes_find_what_one_finds() -> None:
    index = index_evaluation({"e": documents(random.Random(8), 200, 30, WORDS[:40])}, n=4)
    alone = list(overlaps(index, ["one", "two", "three"], read_task))
    together = list(overlaps(index, ["one", "two", "three"], read_task, processes=2))
    for one, other in zip(alone, together, strict=True):
        assert (one.task, one.examples, one.evidence) == (other.task, other.examples, other.evidence)
        np.testing.assert_array_equal(one.hits, other.hits)
    assert all(found.hits.size for found in alone)


def die(name: str) -> list[Document]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_a_process_that_dies_is_reported_in_a_sentence() -> None:
    """The system kills the largest process when memory runs out."""
    index = index_evaluation({"e": documents(random.Random(8), 2, 30)})
    with pytest.raises(ValueError, match="a process that compared tasks died, perhaps because memory ran out"):
        list(overlaps(index, ["one", "two"], die, processes=2))


def test_pairs_above_one_percent_are_reported_with_their_words() -> None:
    rng = random.Random(9)
    evaluation = documents(rng, 200, 20)
    leaked = [Document("copy", evaluation[place].texts) for place in (3, 5, 8)]
    index = index_evaluation({"asked": evaluation, "clean": documents(rng, 10, 20), "brief": [Document("0", ("yes",))]})
    found = compare(index, overlaps(index, ["a", "b"], {"a": leaked, "b": leaked[:2]}.__getitem__))
    (pair,) = found.pairs  # 3 of 200 are above 1%, 2 of 200 are not
    assert (pair.train, pair.evaluation, pair.hit, pair.examples) == ("a", "asked", 3, 200)
    assert (found.short, found.contaminated, found.train_examples) == (1, 3, 5)
    page = markdown(found)
    assert (
        "211 examples of 3 evaluation tasks against 5 examples of 2 training tasks: 3 evaluation examples share a run "
        "of 13 words with training. 1 is shorter than 13 words and cannot be compared. 1 pair of tasks is above 1.0%."
    ) in page
    assert "a -> asked: 3 of 200 (1.5%)" in page
    shown = re.search(r"`copy` and `3`: (.*)", page)
    assert shown
    assert shown[1] in evaluation[3].texts[0]
    assert len(shown[1].split()) == 13


def test_the_report_names_the_dataset_of_both_tasks() -> None:
    words = documents(random.Random(11), 5, 20)
    evaluation = {"promptsource/super_glue_boolq": words, "promptsource/cbt_raw": words}
    index = index_evaluation(evaluation)
    page = markdown(compare(index, overlaps(index, ["flan/bool_q"], {"flan/bool_q": words}.__getitem__)))
    assert page.count("Both are made from") == 1
    assert page.index(r"flan/bool\_q -> promptsource/super\_glue\_boolq") < page.index("Both are made from boolq.")


def test_a_task_is_not_its_own_pair() -> None:
    words = documents(random.Random(10), 5, 20)
    index = index_evaluation({"both": words, "other": words})
    pairs = compare(index, overlaps(index, ["both"], {"both": words}.__getitem__)).pairs
    assert [pair.evaluation for pair in pairs] == ["other"]


def test_decisions_survive_a_second_comparison(tmp_path: Path) -> None:
    path = tmp_path / "decisions.tsv"
    pairs = [ContaminatedPair(train, "e", 1, 10, ()) for train in ("one", "two", "three")]
    write_decisions(path, pairs[:2])
    assert read_decisions(path) == Decisions(frozenset(), frozenset(), 2)
    path.write_text(
        path.read_text().replace("undecided\tone", "drop_train\tone").replace("undecided\ttwo", "keep\ttwo")
    )
    write_decisions(path, pairs)
    assert read_decisions(path) == Decisions(frozenset({"one"}), frozenset(), 1)


@pytest.mark.parametrize("text", ["", "a\tb\n", "\t".join(COLUMNS) + "\nperhaps\ta\tb\t1\t2\t0.5\n"])
def test_a_broken_table_of_decisions_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "decisions.tsv").write_text(text)
    with pytest.raises(ValueError, match=r"expected one of|not a table of decisions"):
        read_decisions(tmp_path / "decisions.tsv")


def test_dropped_tasks_leave_a_split() -> None:
    split = TaskSplit(["a", "b"], ["b"], ["c", "d"], {}, [], [])
    applied = apply_decisions(split, Decisions(frozenset({"a"}), frozenset({"d"}), 2))
    assert (applied.train, applied.validation, applied.test) == (["b"], ["b"], ["c"])
    assert applied.excluded == {"a": "shares text with evaluation"}
    assert len(applied.remarks) == 2  # what is not evaluated, and what is undecided


class TwoTemplates(Benchmark):
    """A training task of ten rows, every one rendered with two templates."""

    name = "two_templates"

    def task_names(self, split: Split) -> list[str]:
        return ["two/rows"] if split == "train" else []

    def task(self, name: str) -> Task:
        return Task(self.name, name, "QA", instruction_level="instance")

    def examples(self, name: str) -> Iterable[Example]:  # type: ignore[override]
        return (Example(name, f"{row}{t}", row, f"row {row}", ("yes",), template=t) for row in range(10) for t in "ab")

    def fingerprint(self, name: str) -> str:
        return name


@pytest.mark.parametrize(
    ("settings", "documents"), [({}, 8), ({"train_of": {"two": 3}}, 3), ({"every_prompt": True}, 16)]
)
def test_the_compared_texts_are_those_that_train(settings: dict[str, Any], documents: int) -> None:
    texts = TaskTexts(TwoTemplates(), Instances(**{"train": None, "validation": 2, "test": 0, **settings}), seed=0)
    training = list(texts.training_documents("two/rows"))
    evaluation = list(texts.evaluation_documents("two/rows"))
    assert (len(training), len(evaluation)) == (documents, 4)
    assert not {document.texts for document in training} & {document.texts for document in evaluation}


def test_the_command_compares_what_trains_with_what_is_evaluated(
    tmp_path: Path, toybench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Toy tasks are short: three equal words are an overlap between them, and no training instance is a test's."""
    data = {
        "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}},
        "tokenizer": str(toybench / "tokenizer"),
        "instances": {"validation": 0, "test": 5},
    }
    (tmp_path / "run.yaml").write_text(
        json.dumps({"data": {"class_path": "InstructionTuningDataModule", "init_args": data}, "trainer": {}})
    )
    main(["decontaminate", "--config", str(tmp_path / "run.yaml"), "--folder", str(tmp_path / "found"), "--n", "3"])
    printed = capsys.readouterr().out
    assert "share a run of 3 words with training" in printed
    assert "## " in (tmp_path / "found" / "report.md").read_text()
    assert read_decisions(tmp_path / "found" / "decisions.tsv").undecided > 0
