"""The fourteen reasoning datasets of OPT-IML (appendix A.1): answers that come after a rationale.

::

    folder/gsm8k/train.jsonl, folder/strategyqa/train.json, ...     each dataset's own files, see DATASETS
    folder/flan_cot/ecqa_train.tsv                                  FLAN's tables stand in where those are missing

A prompt reads "Answer the following question by reasoning step by step.", the question, its options. Two of the
fourteen, StrategyQA and GSM8K, are held out by the paper; which ones train is for the splits to say, not for a reader.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import reasoning_rows as of
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Rendered
from .row_files import Row, file_rows

INSTRUCTION = "Answer the following question by reasoning step by step."

FLAN_COLUMNS = ("question", "answer", "explanation")


class Reasoning(Catalogue):
    """Reads the reasoning datasets; see ``Catalogue`` for the arguments."""

    name = "reasoning"

    def datasets(self) -> Mapping[str, Dataset]:
        return DATASETS


def _dataset(
    name: str,
    columns: str,
    render: Callable[[Row], Iterable[Rendered]],
    files: Mapping[Split, str | tuple[str, ...]],
    *,
    read: Callable[..., Iterable[Row]] = file_rows,
    flan: str = "",
    more: tuple[Layout, ...] = (),
    **fields: Any,
) -> Dataset:
    """A row of the table below; `flan` names the dataset's table in FLAN, which has the training split only."""
    found: dict[Split, tuple[Files, ...]] = {
        split: (Files((paths,) if isinstance(paths, str) else paths, read),) for split, paths in files.items()
    }
    if flan:
        found["train"] = (*found.get("train", ()), Files((f"flan_cot/{flan}_train.tsv",), of.flan_rows))
    return Dataset(
        name=name,
        category="Reasoning",
        layouts=(Layout(tuple(columns.split()), render), *more, Layout(FLAN_COLUMNS, of.solved_text)),
        files=found,
        definition=INSTRUCTION,
        instruction_level="task",
        **fields,
    )


def _both(pattern: str, **splits: str) -> dict[Split, str]:
    """The path of each split: `pattern` with its name in the files."""
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
            of.gsm8k,
            _both("gsm8k/{}.jsonl", train="train", test="test"),
            flan="gsm8k",
            config="main",
            licence="MIT",
        ),
        _dataset(
            "strategyqa",
            "question answer facts",
            of.strategyqa,
            _both("strategyqa/{}.json", **TRAIN_VALIDATION),
            flan="strategyqa",
            licence="MIT",
        ),
        _dataset(
            "aqua_rat",
            "question options rationale correct",
            of.aqua,
            _both("aqua/{}.json", **ALL_SPLITS),
            read=of.json_lines,
            flan="aqua",
            licence="Apache 2.0",
        ),
        _dataset(
            "coqa",
            "story questions answers",
            of.coqa,
            _both("coqa/coqa-{}-v1.0.json", **TRAIN_VALIDATION),
            read=of.coqa_rows,
        ),
        _dataset(
            "cos_e",
            "question choices answer abstractive_explanation",
            of.cos_e,
            {
                "train": ("cos_e/train_rand_split.jsonl", "cos_e/cose_train_v1.11.jsonl"),
                "validation": ("cos_e/dev_rand_split.jsonl", "cos_e/cose_dev_v1.11.jsonl"),
            },
            read=of.cos_e_rows,
            config="v1.11",
            licence="BSD 3-Clause",
        ),
        _dataset(
            "creak",
            "sentence label",
            of.creak,
            _both("creak/{}.json", **TRAIN_VALIDATION),
            read=of.json_lines,
            flan="creak",
            licence="MIT",
        ),
        _dataset(
            "ecqa",
            "q_text q_op1 q_ans taskB",
            of.ecqa,
            _both("ecqa/cqa_data_{}.csv", train="train", validation="val", test="test"),
            flan="ecqa",
            licence="CDLA-Sharing 1.0",
        ),
        _dataset(
            "esnli",
            "premise hypothesis label explanation_1",
            of.esnli,
            {"validation": _esnli("dev"), "test": _esnli("test")},
            read=of.esnli_rows,
            flan="esnli",
            more=(Layout(("gold_label", "Sentence1", "Sentence2", "Explanation_1"), of.esnli_table),),
            licence="MIT",
        ),
        _dataset(
            "math",
            "problem solution",
            of.math,
            {"train": "MATH/train", "test": "MATH/test"},
            read=of.math_rows,
            licence="MIT",
        ),
        _dataset(
            "proofwriter",
            "theory triples rules questions",
            of.proofwriter,
            _both("proofwriter/OWA/depth-5/meta-{}.jsonl", **ALL_SPLITS),
            licence="CC BY 4.0",
        ),
        _dataset(
            "qasc",
            "question fact1 fact2",
            of.qasc,
            _both("qasc/{}.jsonl", **TRAIN_VALIDATION),
            flan="qasc",
            licence="CC BY 4.0",
        ),
        _dataset(
            "qed",
            "paragraph_text question_text annotation",
            of.qed,
            _both("qed/qed-{}.jsonlines", **TRAIN_VALIDATION),
            read=of.json_lines,
            flan="qed",
            licence="CC BY-SA 3.0",
        ),
        _dataset(
            "sense_making",
            "sent0 sent1 label reason1",
            of.sense_making,
            {
                "train": _sense_making("Training  Data", "data_all", "answers_all"),
                "validation": _sense_making("Dev Data", "dev_data", "gold_answers"),
                "test": _sense_making("Test Data", "test_data", "gold_answers"),
            },
            read=of.sense_making_rows,
            flan="sensemaking",
            licence="CC BY-SA 4.0",
        ),
        _dataset(
            "winowhy",
            "wnli_sent1 wnli_sent2 label",
            of.winowhy,
            {"train": "winowhy/dataset.csv"},
        ),
    )
}
"""The datasets and where their splits lie below a folder that holds one folder for each."""
