"""Inspection of evaluation: prompts of validation and test tasks, as the model reads them."""

from collections.abc import Sequence
from dataclasses import replace

from ..base import BenchmarkDataModule
from ..evaluation.evaluation_set import EvaluationSet, read_evaluation
from ..evaluation.prompt_stage import PromptStage, read_prompt_stage
from ..instruction_optimization import InstructionOptimizationDataModule
from ..instruction_tuning import InstructionTuningDataModule
from ..schema import EvaluationExample, Stage
from ..scorer import ScorerDataModule
from ..scoring.response_sets import read_responses
from .read_rows import ReadDocument, read_batch, text_side
from .shown_documents import ShownDocument, first_of_template


def evaluated_documents(data: BenchmarkDataModule, name: str, template: str | None, number: int) -> list[ShownDocument]:
    """Return the first evaluated prompts of a task as the model reads them; for a scorer, each with its responses.

    Args:
        data: The run's datamodule.
        name: Name of a test or validation task.
        template: Template of the examples; None for any.
        number: Number of prompts.
    """
    names = data.task_names()
    stage: Stage = "test" if name in names["test"] else "validation"
    trained = [data.task(each) for each in names["train"]]
    alone = {**names, stage: [name]}
    if isinstance(data, ScorerDataModule):
        shown = _pairs(data, read_evaluation(data.preparation, alone, stage, trained), name, template, number)
    else:
        assert isinstance(data, InstructionTuningDataModule | InstructionOptimizationDataModule)
        prompts = read_prompt_stage(data.evaluation_loaders, stage, alone, trained)
        shown = _prompts(prompts, _chosen(data, name, prompts.examples, template, number))
    return [replace(document, level=f"evaluated ({stage})") for document in shown]


def _chosen(
    data: BenchmarkDataModule, name: str, evaluated: Sequence[EvaluationExample], template: str | None, number: int
) -> list[int]:
    """Return the indices of the first evaluated examples of a template."""
    by_id = {example.id: example for example in data.benchmark.examples(name)}
    of_stage = [by_id[each.id] for each in evaluated]
    return [place for place, _ in first_of_template(name, of_stage, template, number)]


def _prompts(stage: PromptStage, places: Sequence[int]) -> list[ShownDocument]:
    loaders, evaluated = stage.loaders, stage.evaluated
    tokenizer, pair = loaders.preparation.tokenizer, loaders.target_length is not None
    sources = loaders.preparation.tokenize_sources([evaluated.prompts[place] for place in places])
    shown = []
    for place, ids in zip(places, sources, strict=True):
        example = evaluated.examples[place]
        side = text_side("encoder" if pair else "prompt", ids[-loaders.longest_source :], None, tokenizer)
        answers = tuple(f"option: {option}" for option in example.options) or example.references
        shown.append(
            ShownDocument(example.task, example.id, ReadDocument((side,)), stored=len(ids), references=answers)
        )
    return shown


def _pairs(
    data: ScorerDataModule, evaluation: EvaluationSet, name: str, template: str | None, number: int
) -> list[ShownDocument]:
    responses = read_responses(evaluation, data.preparation, mismatches=data.evaluation.mismatches)
    places = _chosen(data, name, responses.examples, template, number)
    kind, shown = data.row_kind, []
    for place in places:
        example, pairs = responses.examples[place], data.preparation.tokenize_scored(responses.responses[place])
        rows = read_batch(
            kind.collate([[pair] for pair in pairs], len(pairs)),
            [1] * len(pairs),
            data.preparation.tokenizer,
            kind.frame,
        )
        shown += [
            ShownDocument(example.task, example.id, row.documents[0], stored=len(pair.input_ids))
            for row, pair in zip(rows, pairs, strict=True)
        ]
    return shown
