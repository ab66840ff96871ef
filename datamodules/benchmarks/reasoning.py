"""Benchmark reader of OPT-IML's fourteen reasoning datasets (arXiv 2212.12017, appendix A.1): rationale and answer.

::

    folder/gsm8k/train.jsonl, folder/strategyqa/train.json, ...     each dataset's original files, see DATASETS
    folder/flan_cot/ecqa_train.tsv                                  FLAN's table, read if those are missing

A prompt is "Answer the following question by reasoning step by step.", the question, its options. The paper holds out
two of the fourteen, StrategyQA and GSM8K; the rules of a bench decide that, not this reader. ``chain_of_thought.py``
reads FLAN's tables alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..schema import MatchRule, Metric
from . import reasoning_rows
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Renderer, split_files
from .rationales import FLAN_COT_COLUMNS, INSTRUCTION, flan_cot_example, flan_cot_rows
from .rows.row import Row
from .rows.row_files import file_rows


class Reasoning(Catalogue):
    """Reads OPT-IML's fourteen reasoning datasets, such as GSM8K, whose targets are a rationale and then the answer.

    Args:
        folder: Folder with a folder for each dataset.
        sources: File or hub name of single datasets that are outside the folder, by dataset.
        split: Split of the datasets to read: ``train``, ``validation`` or ``test``.
    """

    name = "reasoning"

    def datasets(self) -> Mapping[str, Dataset]:
        """Return the fourteen datasets."""
        return DATASETS


def _dataset(
    name: str,
    columns: str,
    render: Renderer,
    files: Mapping[Split, str | tuple[str, ...]],
    *,
    read: Callable[..., Iterable[Row]] = file_rows,
    flan: str = "",
    more: tuple[Layout, ...] = (),
    metric: Metric = "accuracy",
    match: MatchRule = "rationale",
    **fields: Any,
) -> Dataset:
    """Return one dataset of the table below; `flan` names its table in FLAN, which holds the training split only.

    Its authors score the answer, not the rationale: the choice among options, unless the table names another metric.
    """
    alternatives = split_files(files, read)
    if flan:
        # The hub's rows, as `crosstask download` writes them, have all columns: they come before FLAN's table.
        original = (*alternatives.get("train", ()), Files((f"{name}/train.jsonl",)))
        alternatives["train"] = (*original, Files((f"flan_cot/{flan}_train.tsv",), flan_cot_rows))
    return Dataset(
        name=name,
        category="Reasoning",
        layouts=(Layout(tuple(columns.split()), render), *more, Layout(FLAN_COT_COLUMNS, flan_cot_example)),
        files=alternatives,
        definition=INSTRUCTION,
        instruction_level="task",
        metric=metric,
        match=match,
        **fields,
    )


def _paths(pattern: str, **splits: str) -> dict[Split, str]:
    """Return the path of each split: `pattern` with the split's name in the files."""
    return {split: pattern.format(name) for split, name in splits.items()}  # type: ignore[misc]


def _esnli(split: str) -> tuple[str, ...]:
    names = ("s1", "s2", "labels", "preproc1_expl_1", "preproc1_expl_2", "preproc1_expl_3")
    return tuple(f"esnli/{name}.{split}" for name in names)


def _sense_making(folder: str, infix: str, suffix: str) -> tuple[str, ...]:
    tables = (f"subtaskA_{infix}", f"subtaskA_{suffix}", f"subtaskC_{suffix}")
    return tuple(f"sense_making/{folder}/{table}.csv" for table in tables)


TRAIN_VALIDATION = {"train": "train", "validation": "dev"}
ALL_SPLITS = {**TRAIN_VALIDATION, "test": "test"}

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        _dataset(
            "gsm8k",
            "question answer",
            reasoning_rows.gsm8k,
            _paths("gsm8k/{}.jsonl", train="train", test="test"),
            flan="gsm8k",
            config="main",
            licence="MIT",
            metric="exact_match",
            match="gsm8k",
        ),
        _dataset(
            "strategyqa",
            "question answer facts",
            reasoning_rows.strategyqa,
            _paths("strategyqa/{}.json", **TRAIN_VALIDATION),
            flan="strategyqa",
            licence="MIT",
            metric="exact_match",
        ),
        _dataset(
            "aqua_rat",
            "question options rationale correct",
            reasoning_rows.aqua,
            _paths("aqua/{}.json", **ALL_SPLITS),
            read=reasoning_rows.json_lines,
            flan="aqua",
            licence="Apache 2.0",
        ),
        _dataset(
            "coqa",
            "story questions answers",
            reasoning_rows.coqa,
            _paths("coqa/coqa-{}-v1.0.json", **TRAIN_VALIDATION),
            read=reasoning_rows.coqa_rows,
            metric="token_f1",
        ),
        _dataset(
            "cos_e",
            "question choices answer abstractive_explanation",
            reasoning_rows.cos_e,
            {
                "train": ("cos_e/train_rand_split.jsonl", "cos_e/cose_train_v1.11.jsonl"),
                "validation": ("cos_e/dev_rand_split.jsonl", "cos_e/cose_dev_v1.11.jsonl"),
            },
            read=reasoning_rows.cos_e_rows,
            config="v1.11",
            licence="BSD 3-Clause",
        ),
        _dataset(
            "creak",
            "sentence label",
            reasoning_rows.creak,
            _paths("creak/{}.json", **TRAIN_VALIDATION),
            read=reasoning_rows.json_lines,
            flan="creak",
            licence="MIT",
        ),
        _dataset(
            "ecqa",
            "q_text q_op1 q_ans taskB",
            reasoning_rows.ecqa,
            _paths("ecqa/cqa_data_{}.csv", train="train", validation="val", test="test"),
            flan="ecqa",
            licence="CDLA-Sharing 1.0",
        ),
        _dataset(
            "esnli",
            "premise hypothesis label explanation_1",
            reasoning_rows.esnli,
            {"validation": _esnli("dev"), "test": _esnli("test")},
            read=reasoning_rows.esnli_rows,
            flan="esnli",
            more=(Layout(("gold_label", "Sentence1", "Sentence2", "Explanation_1"), reasoning_rows.esnli_table),),
            licence="MIT",
        ),
        _dataset(
            "math",
            "problem solution",
            reasoning_rows.math,
            {"train": "MATH/train", "test": "MATH/test"},
            read=reasoning_rows.math_rows,
            licence="MIT",
            metric="exact_match",
            match="math",
        ),
        _dataset(
            "proofwriter",
            "theory triples rules questions",
            reasoning_rows.proofwriter,
            _paths("proofwriter/OWA/depth-5/meta-{}.jsonl", **ALL_SPLITS),
            licence="CC BY 4.0",
        ),
        _dataset(
            "qasc",
            "question fact1 fact2",
            reasoning_rows.qasc,
            _paths("qasc/{}.jsonl", **TRAIN_VALIDATION),
            flan="qasc",
            licence="CC BY 4.0",
        ),
        _dataset(
            "qed",
            "paragraph_text question_text annotation",
            reasoning_rows.qed,
            _paths("qed/qed-{}.jsonlines", **TRAIN_VALIDATION),
            read=reasoning_rows.json_lines,
            flan="qed",
            licence="CC BY-SA 3.0",
            metric="exact_match",
        ),
        _dataset(
            "sense_making",
            "sent0 sent1 label reason1",
            reasoning_rows.sense_making,
            {
                "train": _sense_making("Training  Data", "data_all", "answers_all"),
                "validation": _sense_making("Dev Data", "dev_data", "gold_answers"),
                "test": _sense_making("Test Data", "test_data", "gold_answers"),
            },
            read=reasoning_rows.sense_making_rows,
            flan="sensemaking",
            licence="CC BY-SA 4.0",
        ),
        _dataset(
            "winowhy",
            "wnli_sent1 wnli_sent2 label",
            reasoning_rows.winowhy,
            {"train": "winowhy/dataset.csv"},
        ),
    )
}
"""The datasets and the files of their splits, in a folder with one folder for each dataset."""
