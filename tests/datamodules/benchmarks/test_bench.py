"""Several collections as one benchmark, and the rules that split their tasks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.benchmarks import Benchmark, NaturalInstructions, Split
from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.benchmarks.levels.generalization_levels import TaskSplit, split_tasks
from crosstask.datamodules.benchmarks.levels.split_rules import (
    Entry,
    EvaluationEntries,
    SplitRules,
    leave_one_category_out,
    read_rules,
    without_held_out_tasks,
)
from crosstask.datamodules.mixture.proportions import ExtraStream
from crosstask.datamodules.schema import Example, Task
from crosstask.datamodules.splits import generalization_level


class Listed(Benchmark):
    """A collection as its user would write one: tasks in a dictionary."""

    name = "listed"

    def __init__(self, tasks: dict[str, str], train: bool = True, twice: bool = False) -> None:
        self.tasks, self.train, self.twice = tasks, train, twice

    def task_names(self, split: Split) -> list[str]:
        names = list(self.tasks) * (2 if self.twice else 1)
        return names if split == ("train" if self.train else "test") else []

    def task(self, name: str) -> Task:
        return Task(benchmark=self.name, name=name, category=self.tasks[name], instruction_level="instance")

    def examples(self, name: str) -> Iterator[Example]:
        return (Example(name, f"{name}-{i}", i, f"What is {i}?", (f"{i}",)) for i in range(20))

    def fingerprint(self, name: str) -> str:
        return f"{name} {self.tasks[name]}"


def tasks(**categories: str) -> list[Task]:
    return [Task("b", name.replace("__", "/"), category) for name, category in categories.items()]


FOUR = tasks(flan__boolq="QA", flan__rte="Entailment", t5__squad="QA", t5__mnli="Entailment")


def test_each_task_lands_in_one_group_and_the_rest_trains() -> None:
    rules = SplitRules(
        held_out_categories=("Entailment",),
        fully_held_out=EvaluationEntries(validation=(Entry("*/rte"),)),
        partially_supervised=EvaluationEntries(test=(Entry("flan/boolq*"),)),
        fully_supervised=EvaluationEntries(test=(Entry("*/squad"),)),
    )
    split = split_tasks(FOUR, rules)
    assert split.train == ["t5/squad"]
    assert split.validation == ["flan/rte"]
    assert split.test == ["flan/boolq", "t5/squad"]
    assert split.excluded == {"t5/mnli": "its category is held out"}
    assert "1 task does not train, its category is held out: t5/mnli" in split.lines()


def test_a_listed_task_that_is_missing_is_reported() -> None:
    rules = SplitRules(
        held_out_categories=("Analogy",),
        partially_supervised=EvaluationEntries(test=(Entry("*/race"), Entry("*/boolq"))),
    )
    assert split_tasks(FOUR, rules).missing == ["*/race (partially_supervised)", "category Analogy"]


def test_a_task_of_two_levels_is_rejected() -> None:
    rules = SplitRules(
        held_out_categories=("Entailment",), partially_supervised=EvaluationEntries(test=(Entry("*/rte"),))
    )
    with pytest.raises(ValueError, match=r"'flan/rte' of category 'Entailment' is in fully_held_out and in partially"):
        split_tasks(FOUR, rules)


def test_a_partially_supervised_task_whose_category_does_not_train_is_reported() -> None:
    split = split_tasks(
        FOUR, SplitRules(partially_supervised=EvaluationEntries(test=(Entry("*/rte"), Entry("*/mnli"))))
    )
    assert split.remarks == [
        "no task of 'Entailment' trains: flan/rte, t5/mnli should be partially supervised and count as fully held out"
    ]


def test_tasks_of_one_source_do_not_straddle() -> None:
    sourced = [
        replace(task, sources=(source,)) for task, source in zip(FOUR, ["BoolQ", "x", "squad", "x"], strict=True)
    ]
    sourced += [Task("b", "new/boolq_again", "Rewriting", sources=("Wikipedia", "boolq"))]
    held_out = SplitRules(partially_supervised=EvaluationEntries(test=(Entry("flan/boolq"),)))
    split = split_tasks(sourced, held_out)
    assert split.train == ["flan/rte", "t5/squad", "t5/mnli"]
    assert split.excluded == {"new/boolq_again": "its dataset is evaluated: boolq in flan/boolq"}
    broad = replace(held_out, broad_sources=("BOOLQ",))
    assert "new/boolq_again" in split_tasks(sourced, broad).train
    supervised = replace(held_out, fully_supervised=EvaluationEntries(test=(Entry("new/*"),)))
    with pytest.raises(ValueError, match="'new/boolq_again' is fully supervised, but its dataset is evaluated"):
        split_tasks(sourced, supervised)
    also = replace(held_out, also_train=("new/*",))
    assert "new/boolq_again" in split_tasks(sourced, also).train
    assert split_tasks(sourced, also).remarks == ["1 task trains on a dataset that is evaluated: new/boolq_again"]


def test_a_held_out_dataset_trains_nowhere_even_without_its_evaluation_task() -> None:
    """Under any name, in any category; evaluated is the task of the category that the rules name."""
    answering = "Question Answering"
    crossfit = {"boolq": answering, "race-high": answering, "ethos-race": "Toxic", "superglue-cb": "Entailment"}
    written = {"task381_boolq_question_generation": "Writing", "task309_race_answer_generation": answering}
    rules = SplitRules(
        fully_held_out=EvaluationEntries(test=(Entry("cb"),)),
        partially_supervised=EvaluationEntries(test=(Entry("race", "Question Answering"), Entry("boolq", "Reading"))),
    )
    bench = Bench({"crossfit": Listed(crossfit), "sni": Listed(written)})
    bench.rules = rules
    assert bench.task_names("train") == ["crossfit/ethos-race"]
    assert bench.task_names("test") == ["crossfit/race-high", "sni/task309_race_answer_generation"]
    assert bench.split.excluded == {
        "crossfit/boolq": "its dataset is evaluated: boolq",
        "crossfit/superglue-cb": "its dataset is evaluated: cb",
        "sni/task381_boolq_question_generation": "its dataset is evaluated: boolq",
    }
    assert bench.split.missing == ["boolq of Reading (partially_supervised)"]


def test_a_trained_task_is_tested_on_its_official_file_where_there_is_one() -> None:
    rules = SplitRules(
        fully_supervised=EvaluationEntries(test=(Entry("spider"), Entry("squad_v1"))),
        partially_supervised=EvaluationEntries(test=(Entry("arc"), Entry("skg/race"))),
        collections=("skg*", "flan"),
    )
    collections = {
        "skg": Listed({"spider": "Text to Code", "sql": "Text to Code", "arc": "QA", "race": "QA"}),
        "skg_dev": Listed({"spider": "Text to Code", "arc_easy": "QA", "race": "QA"}, train=False),
        "flan": Listed({"squad_v1": "QA"}),
    }
    bench = Bench(collections)
    bench.rules = rules
    assert bench.task_names("train") == ["skg/spider", "skg/sql", "flan/squad_v1"]
    assert bench.task_names("test") == ["skg/race", "skg_dev/spider", "skg_dev/arc_easy", "flan/squad_v1"]
    assert bench.split.excluded == {
        "skg/arc": "its official file is evaluated",
        "skg_dev/race": "it only evaluates, and no rule names it",
    }
    assert bench.split.remarks == []
    trained = [bench.task(name) for name in bench.task_names("train")]
    assert generalization_level(bench.task("skg_dev/spider"), trained) == "fully_supervised"
    assert generalization_level(bench.task("skg_dev/spider"), trained[1:]) == "partially_supervised"


def test_one_category_is_left_out() -> None:
    split = split_tasks(FOUR, leave_one_category_out("QA"))
    assert (split.train, split.test) == (["flan/rte", "t5/mnli"], ["flan/boolq", "t5/squad"])


def test_all_trains_everything_and_tests_only_what_cannot_train() -> None:
    rules = read_rules("opt_iml")
    assert "Textual Entailment" in rules.held_out_categories
    everything = read_rules("all")
    assert everything == without_held_out_tasks(rules)
    assert everything.held_out_categories == everything.not_trained == everything.fully_supervised.test == ()
    written = {f"task{i}_rte": "Textual Entailment" for i in range(20)}
    bench = Bench(
        {"flan": Listed({"race": "Question Answering"}), "super_natural_instructions": Listed(written),
         "bbh": Listed({"snarks": "Humor"}, train=False)},
        rules="all",
    )  # fmt: skip
    assert len(bench.task_names("train")) == 21
    assert bench.task_names("validation") == ["flan/race"]
    assert bench.task_names("test") == ["bbh/snarks"]


class Own(Listed):
    """A collection with its own splits: names of tasks by split."""

    def __init__(
        self, train: str = "", validation: str = "", test: str = "", sources: dict[str, str] | None = None
    ) -> None:
        self.splits = {"train": train.split(), "validation": validation.split(), "test": test.split()}
        names = {name for names in self.splits.values() for name in names}
        self.sources = sources or {}
        super().__init__({name: self.category(name) for name in names})

    @staticmethod
    def category(name: str) -> str:
        answering = dict.fromkeys(["squad", "bool_q"], "Question Answering")
        return {"nli": "Textual Entailment", **answering}.get(name, "Mine")

    def task_names(self, split: Split) -> list[str]:
        return self.splits[split]

    def task(self, name: str) -> Task:
        return replace(super().task(name), sources=tuple(self.sources.get(name, "").split()))


MINE = {"train": "rhymes sounds boolq_quiz nli", "test": "sounds secret"}


def own_part(bench: Bench, collection: str = "mine") -> dict[str, list[str]]:
    """The collection's tasks of each split."""
    names = {split: bench.task_names(split) for split in ("train", "validation", "test")}
    return {split: [n.partition("/")[2] for n in of if n.startswith(f"{collection}/")] for split, of in names.items()}


@pytest.mark.parametrize("rules", ["opt_iml", "all"])
def test_a_collection_that_the_rules_do_not_name_keeps_its_own_splits(rules: str, toybench: Path) -> None:
    bench = Bench(
        {"mine": Own(**MINE), "toy": NaturalInstructions(str(toybench)), "flan": Own(train="bool_q rte", test="squad")},
        rules=rules,
    )
    assert own_part(bench) == {
        "train": ["rhymes", "sounds", "boolq_quiz", "nli"], "validation": [], "test": ["sounds", "secret"]
    }  # fmt: skip
    toy = NaturalInstructions(str(toybench))
    assert {split: set(names) for split, names in own_part(bench, "toy").items()} == {
        split: set(toy.task_names(split)) for split in ("train", "validation", "test")
    }
    trained = {"opt_iml": ["squad"], "all": ["bool_q", "rte", "squad"]}
    assert own_part(bench, "flan")["train"] == trained[rules]  # the rules name FLAN: its list of tests does not count
    assert "the rules do not name mine, toy, which keep their own splits" in bench.split.remarks


def test_a_task_that_looks_like_an_evaluated_one_is_reported() -> None:
    remarks = Bench({"mine": Own(**MINE)}).split.remarks
    assert "1 training task named like held-out datasets: mine/boolq_quiz" in remarks[2]
    assert remarks[3] == (
        "1 task trains in held-out categories, whose evaluated tasks count as partially supervised: mine/nli"
    )
    assert remarks[0] == "none of the 61 entries of the rules matches a task"


def test_a_source_that_is_evaluated_does_not_train_in_any_collection() -> None:
    sourced = Own(train="quiz other", test="secret", sources={"quiz": "boolq", "secret": "squad", "other": "squad"})
    bench = Bench({"mine": sourced, "flan": Own(train="bool_q squad coqa")}, rules="opt_iml")
    assert own_part(bench)["test"] == ["secret"]
    assert own_part(bench, "flan")["train"] == ["squad", "coqa"]  # the rules train SQuAD, whatever others test
    assert bench.split.excluded["mine/quiz"] == "its dataset is evaluated: boolq in flan/bool_q"
    assert bench.split.excluded["mine/other"] == "its dataset is evaluated: squad_v1 in mine/secret"


def test_rules_name_single_tasks_of_a_collection_with_its_own_splits(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "collections: [flan]\npartially_supervised: {test: [mine/rhymes, '*/*ound*']}\nalso_train: [mine/secret]\n"
    )
    bench = Bench({"mine": Own(**MINE), "flan": Own(train="coqa")}, rules=str(rules))
    assert own_part(bench) == {
        "train": ["sounds", "boolq_quiz", "nli", "secret"], "validation": [], "test": ["rhymes", "sounds", "secret"]
    }  # fmt: skip
    assert "1 entry of the rules matches no available task: */*ound* (partially_supervised)" in bench.split.lines()


def test_one_held_out_category_is_evaluated_alone(toybench: Path) -> None:
    collections = {"mine": Own(**MINE), "toy": NaturalInstructions(str(toybench))}
    bench = Bench(collections, held_out_category="Mine")
    assert own_part(bench) == {"train": ["nli"], "validation": [], "test": ["rhymes", "sounds", "boolq_quiz", "secret"]}
    assert own_part(bench, "toy")["test"] == []
    assert not set(own_part(bench, "toy")["train"]) - set(collections["toy"].task_names("train"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fully_heldout: {}", "no 'fully_heldout' in rules; nearest: fully_held_out"),
        ("partially_supervised: {categories: [QA]}", "partially_supervised has no 'categories'"),
        ("fully_held_out: {test: rte}", "fully_held_out, test: expected a list of texts, got 'rte'"),
    ],
)
def test_rules_that_say_something_else_are_rejected(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_rules(str(path))
    with pytest.raises(ValueError, match="expected a YAML file, or one of all, opt_iml"):
        read_rules("opt-iml")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    rules = tmp_path / "rules.yaml"
    rules.write_text("fully_held_out: {categories: [Word Analogy]}")
    return Bench(
        {"one": Listed({"a": "QA", "b": "Word Analogy"}), "two": Listed({"a": "QA", "c": "QA"}),
         "bbh": Listed({"snarks": "Humor"}, train=False)},
        rules=str(rules),
    )  # fmt: skip


def test_names_are_qualified_so_that_collections_may_share_them(bench: Bench) -> None:
    assert bench.task_names("train") == ["one/a", "two/a", "two/c"]
    assert bench.task_names("test") == ["bbh/snarks"]
    assert bench.task("two/a").benchmark == "two"
    assert {example.task for example in bench.examples("two/a")} == {"two/a"}
    assert bench.fingerprint("two/c") == "c QA"
    with pytest.raises(ValueError, match="no task 'two/d' among the 5 of one, two, bbh; nearest"):
        bench.task("two/d")


def test_categories_are_the_taxonomys_where_it_knows_them() -> None:
    bench = Bench({"flan": Listed({"rte": "Natural Language Inference", "mine": "My Own"})})
    assert [bench.task(f"flan/{name}").category for name in ("rte", "mine")] == ["Textual Entailment", "My Own"]
    own = Bench({"flan": Listed({"none": ""})})
    assert own.task("flan/none").category == "none"
    assert own.split.remarks == ["1 task is a category of its own: flan/none"]


def test_a_task_that_a_collection_lists_twice_is_rejected() -> None:
    with pytest.raises(ValueError, match="collection 'one' lists tasks twice in train: a"):
        Bench({"one": Listed({"a": "QA"}, twice=True)}).task_names("train")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"collections": {}}, "at least one collection"),
        ({"collections": {"a/b": Listed({"a": "QA"})}}, "must not be empty or contain a slash, got a/b"),
        ({"collections": {"a": Listed({"a": "QA"})}, "decisions": "none.tsv"}, "no table of decisions 'none.tsv'"),
    ],
)
def test_impossible_benches_are_rejected(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Bench(**arguments)


def test_a_category_that_is_left_out_must_be_there() -> None:
    with pytest.raises(ValueError, match="no task is of the category 'Word Analogi'; nearest: Word Analogy"):
        Bench({"one": Listed({"a": "QA", "b": "Word Analogy"})}, held_out_category="Word Analogi").task_names("train")


def test_a_bench_trains(bench: Bench, make_datamodule, toybench: Path) -> None:  # type: ignore[no-untyped-def]
    mixed = Bench({**bench.collections, "toy": NaturalInstructions(str(toybench))}, held_out_category="QA")
    data: InstructionTuningDataModule = make_datamodule(benchmark=mixed)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.plan is not None
    assert {name.split("/")[0] for name in data.plan.mixture.names} == {"one", "toy"}
    assert {example.task for example in data.evaluation_examples("test")} == {"one/a", "two/a", "two/c"}
    assert {example.level for example in data.evaluation_examples("test")} == {"fully_held_out"}


def test_a_mixture_of_collections_is_drawn_as_its_proportions_say(bench: Bench, make_datamodule) -> None:  # type: ignore[no-untyped-def]
    extra = {"two": ExtraStream(0.1, "tokens", paid_by="one")}
    three = Bench({**bench.collections, "three": Listed({"x": "QA", "y": "NLI"})})
    data = make_datamodule(
        benchmark=three, mixture={"proportions": {"one": 0.25, "three": 0.75}, "extra": extra}, instances={"test": 0}
    )
    data.prepare_data()
    data.setup("fit")
    window = data.plan.window(0)
    tokens = data.plan.lengths(window)[0]
    collection = np.array([name.split("/")[0] for name in data.plan.mixture.names])[window.tasks]
    draws = len(window.tasks)
    assert abs(np.mean(collection == "three") - 0.75) < 2 / draws
    assert abs(tokens[collection == "two"].sum() / tokens.sum() - 0.1) < 4 / draws
    report = data.describe(steps=5)
    assert [node.name for node in report.nodes if node.depth == 1] == ["one", "two", "three"]
    assert sum(node.rate for node in report.nodes if node.depth == 3) == pytest.approx(1.0)


def test_a_task_is_cut_to_a_random_part(bench: Bench, make_datamodule) -> None:  # type: ignore[no-untyped-def]
    data = make_datamodule(benchmark=bench, instances={"train": 9, "train_of": {"two": 4}, "validation": 0})
    data.prepare_data()
    data.setup("fit")
    assert dict(zip(data.plan.mixture.names, data.plan.mixture.sizes, strict=True)) == {
        "one/a": 9,
        "two/a": 4,
        "two/c": 4,
    }
    chosen = data.preparation.split_instances(
        "two/a", bench.examples("two/a"), trained=True, validated=False, tested=False
    ).train
    assert sorted(chosen) != [0, 1, 2, 3]


def test_a_split_prints_what_there_is_to_know(bench: Bench) -> None:
    split: TaskSplit = bench.split
    text = "\n".join(split.lines())
    assert "3 tasks train, 0 validate, 1 is tested" in text
    assert "1 task does not train, its category is held out: one/b" in text
