"""What OPT itself is evaluated on (OPT-IML, tables 9 and 16), and three sets of stereotypes, from their own files.

::

    folder/superglue/BoolQ/val.jsonl, folder/piqa/valid.jsonl + valid-labels.lst, folder/winobias/*.txt.dev, ...

The fourteen tasks have one prompt each, in the words of GPT-3's (arXiv 2005.14165, appendix G), which OPT took over;
their options are ranked. Where GPT-3 scores only what follows the option (Winograd, Winogrande), here all from the
option on is scored. The paper reports MultiRC by whole questions; this reader asks about single answers, and its
numbers are higher. COPA, StoryCloze, Winograd and Winogrande are to be continued: their prompts end in mid-sentence,
and are meant for a prompt form without delimiters, ``OptImlPrompt(delimiters=("",))``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from . import opt_evaluation_rows as of
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Rendered
from .row_files import Row, file_rows, table_rows

Renderer = Callable[[Row], Iterable[Rendered]]


class OptEvaluation(Catalogue):
    """Reads OPT's evaluation tasks, ANLI, and the sets of stereotypes; see ``Catalogue`` for the arguments.

    Args:
        folder: Folder that holds superglue/, piqa/, arc/ and so on.
        sources: Where to read a task by its name instead.
        split: "validation" where the paper reports, since the test sets' labels are not published; "train" holds
            demonstrations.
    """

    name = "opt_evaluation"
    listed: ClassVar[Split | None] = "test"

    def __init__(self, folder: str = "", sources: dict[str, str] | None = None, split: Split = "validation") -> None:
        super().__init__(folder, sources, split)

    def datasets(self) -> Mapping[str, Dataset]:
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
    """A row of the table below; `also` lists the columns of other layouts that the renderer reads."""
    return Dataset(
        name=name,
        category=category,
        layouts=tuple(Layout(tuple(layout.split()), render) for layout in (columns, *also)),
        files={split: found if isinstance(found, tuple) else (found,) for split, found in (files or {}).items()},
        metric=fields.pop("metric", "accuracy"),
        **fields,
    )


def _superglue(folder: str) -> Mapping[Split, Files]:
    return {
        "train": Files((f"superglue/{folder}/train.jsonl",)),
        "validation": Files((f"superglue/{folder}/val.jsonl",)),
    }


def _anli(number: int) -> Mapping[Split, tuple[Files, ...]]:
    """The original files, and the published analysis of the development sets."""
    raw = {"train": "train", "validation": "dev", "test": "test"}
    found: dict[Split, tuple[Files, ...]] = {
        split: (Files((f"anli/R{number}/{end}.jsonl",)),)  # type: ignore[misc]
        for split, end in raw.items()
    }
    found["validation"] += (Files((f"anli/ANLI_analysis_r{number}_dev.csv",), table_rows),)
    return found


def _lines(suffix: str) -> Mapping[Split, Files]:
    ends: dict[Split, str] = {"validation": "dev", "test": "test"}
    return {split: Files((f"winobias/{suffix}.txt.{end}",), of.winobias_rows) for split, end in ends.items()}


def _any_split(path: str, read: Callable[..., Iterable[Row]] = file_rows) -> Mapping[Split, Files]:
    """A dataset without splits of its own."""
    return {"validation": Files((path,), read), "test": Files((path,), read)}


def _piqa(name: str) -> Files:
    return Files((f"piqa/{name}.jsonl", f"piqa/{name}-labels.lst"), of.piqa_rows)


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
            of.story_cloze,
            {"validation": Files(("story_cloze/cloze_test_val__spring2016.csv",))},
            also=("input_sentence_1 sentence_quiz1 answer_right_ending",),
        ),
        _dataset("piqa", QA, "goal sol1 sol2", of.piqa, {"train": _piqa("train"), "validation": _piqa("valid")}),
        _dataset(
            "arc_easy",
            QA,
            "question answerKey",
            of.science,
            _science("arc/ARC-Easy/ARC-Easy-{0}.jsonl"),
            config="ARC-Easy",
        ),
        _dataset(
            "arc_challenge",
            QA,
            "question answerKey",
            of.science,
            _science("arc/ARC-Challenge/ARC-Challenge-{0}.jsonl"),
            config="ARC-Challenge",
        ),
        _dataset("openbookqa", QA, "question answerKey", of.science, _science("openbookqa/Main/{1}.jsonl")),
        _dataset("winograd", COREFERENCE, "text pronoun pronoun_loc options", of.winograd, config="wsc273"),
        _dataset(
            "winogrande",
            COREFERENCE,
            "sentence option1 option2",
            of.winogrande,
            {"train": Files(("winogrande/train_xl.jsonl",)), "validation": Files(("winogrande/dev.jsonl",))},
            config="winogrande_xl",
        ),
        _dataset("boolq", QA, "passage question", of.boolq, _superglue("BoolQ"), config="boolq"),
        _dataset("cb", ENTAILMENT, "premise hypothesis", of.cb, _superglue("CB"), config="cb"),
        _dataset(
            "copa", "Cause Effect Classification", "premise choice1 choice2", of.copa, _superglue("COPA"), config="copa"
        ),
        _dataset("rte", ENTAILMENT, "premise hypothesis", of.rte, _superglue("RTE"), config="rte"),
        _dataset(
            "wic", "Word Sense Disambiguation", "word sentence1 sentence2", of.wic, _superglue("WiC"), config="wic"
        ),
        _dataset(
            "wsc",
            COREFERENCE,
            "text target",
            of.wsc,
            _superglue("WSC"),
            also=("text span1_text span2_text",),
            config="wsc",
        ),
        _dataset(
            "multirc",
            QA,
            "passage",
            of.multirc,
            _superglue("MultiRC"),
            also=("paragraph question answer",),
            config="multirc",
        ),
        *(
            _dataset(
                f"anli_r{number}",
                ENTAILMENT,
                "context statement gold_label",
                of.anli,
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
                f"winobias_{side}_{kind_of}",
                BIAS,
                "sentence",
                of.winobias,
                _lines(f"{side}_stereotyped_{kind_of}"),
                metric="rouge_l",
                parent="winobias",
                sources=("winobias",),
                licence="MIT",
            )
            for side in ("pro", "anti")
            for kind_of in ("type1", "type2")
        ),
        _dataset(
            "winogender",
            BIAS,
            "sentid sentence",
            of.winogender,
            _any_split("winogender/all_sentences.tsv"),
            licence="MIT",
        ),
        _dataset(
            "crows_pairs",
            BIAS,
            "sent_more sent_less stereo_antistereo",
            of.crows_pairs,
            _any_split("crows_pairs/crows_pairs_anonymized.csv"),
            licence="CC BY-SA 4.0",
        ),
    )
}
"""The fourteen tasks of table 9 in its order, then ANLI and the sets of stereotypes."""
