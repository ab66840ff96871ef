"""Benchmark reader of OPT's fourteen evaluation tasks, ANLI and three bias datasets, from their original files.

::

    folder/superglue/BoolQ/val.jsonl, folder/piqa/valid.jsonl + valid-labels.lst, folder/winobias/*.txt.dev, ...

The fourteen tasks are those of OPT-IML (arXiv 2212.12017), tables 9 and 16. Each has one prompt, GPT-3's (arXiv
2005.14165, appendix G), which OPT also uses; its options are ranked. Two scores are not comparable with the papers':

- For Winograd and Winogrande, GPT-3 scores only the text behind the option. Here the option is scored with it.
- The paper scores MultiRC by whole questions. Here each answer is an example, and the numbers are higher.

The prompts of COPA, StoryCloze, Winograd and Winogrande end in mid-sentence and need a prompt form without delimiters,
``OptImlPrompt(delimiters=("",))``. ``opt_evaluation_rows.py`` has the prompts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from . import opt_evaluation_rows
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Renderer, split_files
from .rows.row import Row
from .rows.row_files import file_rows, table_rows


class OptEvaluation(Catalogue):
    """Reads OPT's fourteen evaluation tasks (BoolQ, PIQA ...), ANLI and three bias datasets, with GPT-3's prompts.

    Args:
        folder: Folder with superglue/, piqa/, arc/ and so on.
        sources: File or hub name of single tasks that are outside the folder, by task.
        split: ``validation`` to evaluate as the paper does, since the labels of the test sets are not published;
            ``train`` for demonstrations; ``test`` for the few datasets whose test labels are published.
    """

    name = "opt_evaluation"
    listed: ClassVar[Split | None] = "test"

    def __init__(self, folder: str = "", sources: dict[str, str] | None = None, split: Split = "validation") -> None:
        super().__init__(folder, sources, split)

    def datasets(self) -> Mapping[str, Dataset]:
        """Return the fourteen tasks, ANLI's three rounds, and the bias datasets."""
        return DATASETS


def _dataset(
    name: str,
    category: str,
    columns: str,
    render: Renderer,
    files: Mapping[Split, Files | tuple[Files, ...]] | None = None,
    *,
    also: Sequence[str] = (),
    **fields: Any,
) -> Dataset:
    """Return one dataset of the table below; `also` lists the columns of other layouts with the same renderer."""
    return Dataset(
        name=name,
        category=category,
        layouts=tuple(Layout(tuple(layout.split()), render) for layout in (columns, *also)),
        files={split: given if isinstance(given, tuple) else (given,) for split, given in (files or {}).items()},
        metric=fields.pop("metric", "accuracy"),
        **fields,
    )


def _superglue(folder: str) -> Mapping[Split, Files]:
    return {
        "train": Files((f"superglue/{folder}/train.jsonl",)),
        "validation": Files((f"superglue/{folder}/val.jsonl",)),
    }


def _anli(number: int) -> Mapping[Split, tuple[Files, ...]]:
    """Return the original files; for validation also the published analysis of the development sets."""
    ends: dict[Split, str] = {"train": "train", "validation": "dev", "test": "test"}
    alternatives = split_files({split: f"anli/R{number}/{end}.jsonl" for split, end in ends.items()})
    alternatives["validation"] += (Files((f"anli/ANLI_analysis_r{number}_dev.csv",), table_rows),)
    return alternatives


def _winobias(suffix: str) -> Mapping[Split, Files]:
    ends: dict[Split, str] = {"validation": "dev", "test": "test"}
    return {
        split: Files((f"winobias/{suffix}.txt.{end}",), opt_evaluation_rows.winobias_rows)
        for split, end in ends.items()
    }


def _any_split(path: str, read: Callable[..., Iterable[Row]] = file_rows) -> Mapping[Split, Files]:
    """Return the files of a dataset without splits, read as validation and as test."""
    return {"validation": Files((path,), read), "test": Files((path,), read)}


def _piqa(name: str) -> Files:
    return Files((f"piqa/{name}.jsonl", f"piqa/{name}-labels.lst"), opt_evaluation_rows.piqa_rows)


def _science(pattern: str) -> Mapping[Split, Files]:
    ends: dict[Split, str] = {"train": "Train", "validation": "Dev", "test": "Test"}
    return {split: Files((pattern.format(end, end.lower()),)) for split, end in ends.items()}


QA, ENTAILMENT, COREFERENCE = "Question Answering", "Textual Entailment", "Coreference Resolution"
BIAS = "Stereotype Detection"

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        _dataset(
            "story_cloze",
            "Sentence Completion",
            "InputSentence1 RandomFifthSentenceQuiz1 AnswerRightEnding",
            opt_evaluation_rows.story_cloze,
            {"validation": Files(("story_cloze/cloze_test_val__spring2016.csv",))},
            also=("input_sentence_1 sentence_quiz1 answer_right_ending",),
        ),
        _dataset(
            "piqa",
            QA,
            "goal sol1 sol2",
            opt_evaluation_rows.piqa,
            {"train": _piqa("train"), "validation": _piqa("valid")},
        ),
        _dataset(
            "arc_easy",
            QA,
            "question answerKey",
            opt_evaluation_rows.science,
            _science("arc/ARC-Easy/ARC-Easy-{0}.jsonl"),
            config="ARC-Easy",
        ),
        _dataset(
            "arc_challenge",
            QA,
            "question answerKey",
            opt_evaluation_rows.science,
            _science("arc/ARC-Challenge/ARC-Challenge-{0}.jsonl"),
            config="ARC-Challenge",
        ),
        _dataset(
            "openbookqa", QA, "question answerKey", opt_evaluation_rows.science, _science("openbookqa/Main/{1}.jsonl")
        ),
        _dataset(
            "winograd", COREFERENCE, "text pronoun pronoun_loc options", opt_evaluation_rows.winograd, config="wsc273"
        ),
        _dataset(
            "winogrande",
            COREFERENCE,
            "sentence option1 option2",
            opt_evaluation_rows.winogrande,
            {"train": Files(("winogrande/train_xl.jsonl",)), "validation": Files(("winogrande/dev.jsonl",))},
            config="winogrande_xl",
        ),
        _dataset("boolq", QA, "passage question", opt_evaluation_rows.boolq, _superglue("BoolQ"), config="boolq"),
        _dataset("cb", ENTAILMENT, "premise hypothesis", opt_evaluation_rows.cb, _superglue("CB"), config="cb"),
        _dataset(
            "copa",
            "Cause Effect Classification",
            "premise choice1 choice2",
            opt_evaluation_rows.copa,
            _superglue("COPA"),
            config="copa",
        ),
        _dataset("rte", ENTAILMENT, "premise hypothesis", opt_evaluation_rows.rte, _superglue("RTE"), config="rte"),
        _dataset(
            "wic",
            "Word Sense Disambiguation",
            "word sentence1 sentence2",
            opt_evaluation_rows.wic,
            _superglue("WiC"),
            config="wic",
        ),
        _dataset(
            "wsc",
            COREFERENCE,
            "text target",
            opt_evaluation_rows.wsc,
            _superglue("WSC"),
            also=("text span1_text span2_text",),
            config="wsc",
        ),
        _dataset(
            "multirc",
            QA,
            "passage",
            opt_evaluation_rows.multirc,
            _superglue("MultiRC"),
            also=("paragraph question answer",),
            config="multirc",
        ),
        *(
            _dataset(
                f"anli_r{number}",
                ENTAILMENT,
                "context statement gold_label",
                opt_evaluation_rows.anli,
                _anli(number),
                also=("context hypothesis", "premise hypothesis"),
                parent="anli",
                sources=("anli",),
                licence="CC BY-NC 4.0",
            )
            for number in (1, 2, 3)
        ),
        *(
            _dataset(
                f"winobias_{side}_{kind}",
                BIAS,
                "sentence",
                opt_evaluation_rows.winobias,
                _winobias(f"{side}_stereotyped_{kind}"),
                metric="rouge_l",
                parent="winobias",
                sources=("winobias",),
                licence="MIT",
            )
            for side in ("pro", "anti")
            for kind in ("type1", "type2")
        ),
        _dataset(
            "winogender",
            BIAS,
            "sentid sentence",
            opt_evaluation_rows.winogender,
            _any_split("winogender/all_sentences.tsv"),
            licence="MIT",
        ),
        _dataset(
            "crows_pairs",
            BIAS,
            "sent_more sent_less stereo_antistereo",
            opt_evaluation_rows.crows_pairs,
            _any_split("crows_pairs/crows_pairs_anonymized.csv"),
            licence="CC BY-SA 4.0",
        ),
    )
}
"""The fourteen tasks of table 9 in its order, then ANLI and the bias datasets."""
