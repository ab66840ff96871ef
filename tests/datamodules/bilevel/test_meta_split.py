"""Inner and outer tasks: whole categories, clusters of similar definitions, or a list; and what cannot be split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase, T5Config, T5Model

from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.bilevel.meta_split import (
    CategorySplit,
    ClusterSplit,
    FileSplit,
    InnerOuter,
    MetaSplit,
    described_split,
    divided_levels,
    k_means,
    tf_idf,
)
from crosstask.datamodules.schema import Task


def task(name: str, category: str, definition: str = "") -> Task:
    return Task("bench", name, category, definition)


TASKS = [
    task("copy cats", "Copying", "Write the cats again."),
    task("sort cats", "Sorting", "Sort the cats from a to z."),
    task("copy dogs", "Copying", "Write the dogs again."),
    task("count dogs", "Counting", "How many dogs are there?"),
    task("sort dogs", "Sorting", "Sort the dogs from a to z."),
]


def test_whole_categories_go_to_one_level() -> None:
    categories = {task.name: task.category for task in TASKS}
    drawn = set()
    for seed in range(20):
        split = CategorySplit(outer=1, seed=seed)(TASKS)
        assert split == CategorySplit(outer=1, seed=seed)(TASKS)
        inner, outer = ({categories[name] for name in names} for names in split)
        assert not inner & outer
        assert len(outer) == 1
        assert sorted([*split.inner, *split.outer]) == sorted(categories)  # every task once
        drawn |= outer
    assert drawn == {"Copying", "Sorting", "Counting"}  # the seed matters


def test_a_share_of_the_categories() -> None:
    assert CategorySplit(outer=0.34)(TASKS) == CategorySplit(outer=1)(TASKS)
    assert CategorySplit(outer=2)(TASKS) == CategorySplit(outer=0.6)(TASKS)


@pytest.mark.parametrize("outer", [0, 3, 0.1, -1, 1.0 - 1e-9])
def test_a_level_without_tasks_is_rejected(outer: float) -> None:
    with pytest.raises(ValueError, match=r"takes -?\d of the 3 training categories.*choose 1 to 2"):
        CategorySplit(outer=outer)(TASKS)


@pytest.mark.parametrize("outer", [1.5, float("nan"), float("inf")])
def test_a_part_of_a_category_is_rejected(outer: float) -> None:
    with pytest.raises(ValueError, match="a number of categories, or a share of them below 1"):
        CategorySplit(outer=outer)(TASKS)


def test_one_category_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match=r"the 2 training tasks have one category, '', .* set split to ClusterSplit"):
        CategorySplit(outer=1)([task("a", ""), task("b", "")])


class OwnSplit(MetaSplit):
    """The levels that it is built with."""

    def __init__(self, inner: list[str], outer: list[str]) -> None:
        self.levels = (inner, outer)

    def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
        return self.levels  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("inner", "outer", "message"),
    [
        ([], ["copy cats"], "OwnSplit leaves no inner task of 5 training tasks"),
        (["copy cats"], [], "leaves no outer task"),
        (["copy cats"], ["sort dog"], "names tasks that are no training tasks: sort dog"),
        (["copy cats", "sort cats"], ["sort cats"], "names tasks twice, in one level or in both: sort cats"),
    ],
)
def test_a_split_of_ones_own_that_is_none_is_rejected(inner: list[str], outer: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divided_levels(OwnSplit(inner, outer), TASKS)
    assert divided_levels(OwnSplit(["copy cats"], ["sort dogs"]), TASKS).inner == [
        "copy cats"
    ]  # the others are in none


@pytest.mark.parametrize("returned", [["copy cats"], ("copy cats", "sort cats"), (TASKS[:1], TASKS[1:])])
def test_a_split_that_returns_no_two_lists_of_names_is_rejected(returned: Any) -> None:
    class Returns(MetaSplit):
        def __call__(self, tasks: Sequence[Task]) -> InnerOuter:
            return returned

    with pytest.raises(
        ValueError, match=r"Returns must return InnerOuter\(inner, outer\), two lists of names of tasks"
    ):
        divided_levels(Returns(), TASKS)


def test_a_split_that_is_no_dataclass_is_described_by_its_settings() -> None:
    described = described_split(OwnSplit(["a"], ["b"]))
    assert described == described_split(OwnSplit(["a"], ["b"])) == "OwnSplit(levels=(['a'], ['b']))"
    assert described_split(None) == "None"


def test_a_list_of_outer_tasks(tmp_path: Path) -> None:
    path = tmp_path / "outer.txt"
    path.write_text("sort dogs\n\nsort cats\n")
    split = FileSplit(str(path))(TASKS)
    assert split.inner == ["copy cats", "copy dogs", "count dogs"]
    assert split.outer == ["sort cats", "sort dogs"]  # in the order of the training list

    path.write_text("sort dogs\n")
    with pytest.raises(ValueError, match="1 categories have inner and outer tasks"):
        FileSplit(str(path))(TASKS)
    assert FileSplit(str(path), by_category=False)(TASKS).outer == ["sort dogs"]

    path.write_text("sort birds\n")
    with pytest.raises(ValueError, match=r"1 of 1 outer tasks are not training tasks, e.g. sort birds"):
        FileSplit(str(path))(TASKS)
    path.write_text("")
    with pytest.raises(ValueError, match="leaves no outer task of 5"):
        FileSplit(str(path))(TASKS)
    with pytest.raises(ValueError, match="no file"):
        FileSplit(str(tmp_path / "missing.txt"))(TASKS)


def test_definitions_that_share_their_words_form_a_group() -> None:
    groups = [set(ClusterSplit(groups=3, group=group)(TASKS).outer) for group in range(3)]
    expected = [{"copy cats", "copy dogs"}, {"sort cats", "sort dogs"}, {"count dogs"}]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, expected))
    assert groups[2] == {"count dogs"}  # the smallest comes last
    assert ClusterSplit(groups=3)(TASKS) == ClusterSplit(groups=3)(TASKS)


def test_rare_words_weigh_more() -> None:
    rows = tf_idf(["the cat", "the dog", "the dog"])  # columns: cat dog the
    assert (rows**2).sum(axis=1) == pytest.approx([1.0, 1.0, 1.0])
    assert rows[0, 0] > rows[1, 1] > rows[1, 2] > 0
    assert rows[0, 1] == 0
    assert tf_idf(["", " "]).tolist() == [[0.0], [0.0]]
    assert tf_idf(["", "a"]).tolist() == [[0.0], [1.0]]  # a word of one letter counts


def test_k_means_finds_separate_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    points = np.repeat(centres, 20, axis=0) + rng.normal(size=(60, 2))
    labels = k_means(points, 3, seed=1)
    assert [len(set(labels[start : start + 20].tolist())) for start in (0, 20, 40)] == [1, 1, 1]
    assert len(set(labels.tolist())) == 3
    assert k_means(np.zeros((4, 2)), 2, seed=0).tolist() == [0] * 4  # equal points: one cluster, and no warning


@pytest.mark.parametrize(
    "split",
    [ClusterSplit(groups=1), ClusterSplit(groups=6), ClusterSplit(groups=3, group=3)],
    ids=["one group", "more groups than tasks", "no such group"],
)
def test_impossible_groups_are_rejected(split: ClusterSplit) -> None:
    with pytest.raises(ValueError, match=r"groups = \d must lie between 2 and the 5 training tasks"):
        split(TASKS)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_an_encoder_embeds_the_definitions(kind: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    if kind == "bert":
        settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        BertModel(BertConfig(vocab_size=len(tokenizer), **settings)).save_pretrained(tmp_path)  # type: ignore[arg-type]
    else:
        small = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        T5Model(small).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    split = ClusterSplit(groups=2, encoder=str(tmp_path))(TASKS)
    assert sorted([*split.inner, *split.outer]) == sorted(task.name for task in TASKS)


def test_the_embedded_benchmark_splits(toybench: Path) -> None:
    benchmark = NaturalInstructions(str(toybench))
    tasks = [benchmark.task(name) for name in benchmark.task_names("train")]
    inner, outer = CategorySplit(outer=3)(tasks)
    assert len(inner) > len(outer) >= 3
