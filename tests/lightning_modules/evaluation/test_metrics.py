"""Scores, their gathering, and estimates."""

from pathlib import Path

import numpy as np
import pytest
from warm_program import WarmProgram

from crosstask.datamodules.rouge import ROUGE_L
from crosstask.datamodules.schema import EvaluationExample
from crosstask.lightning_modules.evaluation.aggregation import scored_instances
from crosstask.lightning_modules.evaluation.answers import Answer
from crosstask.lightning_modules.evaluation.generation_scores import GenerationScores
from crosstask.lightning_modules.evaluation.option_scores import option_scores
from crosstask.lightning_modules.evaluation.significance import Estimate, bootstrap
from crosstask.lightning_modules.evaluation.text_metrics import (
    degeneration,
    matched_option,
    score_by_metric,
    token_f1,
)


def example(number: int, reference: str = "the cat sat") -> EvaluationExample:
    return EvaluationExample(number, "task", "category", "fully_held_out", str(number), "prompt", (reference,))


def test_normalization_is_not_applied_before_rouge() -> None:
    """ "it's" is two tokens to ROUGE and one word to exact match."""
    answer = Answer.of(example(0, "it s"), "it's")
    assert (answer.rouge_l, answer.exact_match) == (1.0, False)


def test_rouge_is_computed_by_the_requested_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Answer.of(example(0), "the cat", "rouge_score") == Answer.of(example(0), "the cat")
    monkeypatch.setitem(ROUGE_L, "rouge_score", lambda prediction, references: 0.125)  # type: ignore[arg-type]
    assert Answer.of(example(0), "the cat", "rouge_score").rouge_l == 0.125
    scores = option_scores([-1.0, -2.0], [1, 1], ["a", "b"])
    assert Answer.chosen(choice(0, ("a", "b"), 0), scores, 0, False, "rouge_score").rouge_l == 0.125


@pytest.mark.parametrize(
    ("prediction", "references", "f1"),
    [
        ("the cat sat", ("a cat",), 2 / 3),  # articles are no words: cat sat against cat
        ("cat cat", ("cat",), 2 / 3),  # a word counts as often as it stands in both
        ("on a mat", ("dog", "the mat."), 2 / 3),  # of the best reference
        ("", ("the",), 1.0),
        ("", ("cat",), 0.0),
    ],
)
def test_token_f1_by_hand(prediction: str, references: tuple[str, ...], f1: float) -> None:
    assert token_f1(prediction, references) == pytest.approx(f1)


def choice(number: int, options: tuple[str, ...], answer: int) -> EvaluationExample:
    return example(number, options[answer])._replace(options=options, answer=answer)


def test_accuracy_is_of_options_written_or_chosen() -> None:
    asked = choice(0, ("Yes", "No"), 1)
    assert Answer.of(asked, "no.").accuracy == 1.0
    assert Answer.of(asked, "yes").accuracy == 0.0
    assert Answer.of(asked, "neither").accuracy == 0.0
    assert Answer.of(example(0), "no").accuracy is None
    assert Answer.of(example(0, "no"), "no").score("accuracy") == 1.0  # whether the text is right, without options
    signs = choice(0, ("<", ">"), 0)  # both are nothing to exact match
    assert [Answer.of(signs, text).accuracy for text in ("<", ">", "=")] == [1.0, 0.0, 0.0]
    assert matched_option("a", ["A", "a."]) is None  # two options are meant
    assert matched_option("5", ["-5", "7"]) is None  # a sign is part of the answer
    assert [matched_option(text, ["1.5", "15"]) for text in ("1.5.", "15", "(15)", "1 5")] == [0, 1, 1, None]
    scores = option_scores([-2.0, -2.0], [1, 1], ["<", ">"])
    chosen = Answer.chosen(signs, scores, *scores.best())
    assert (chosen.prediction, chosen.accuracy, chosen.tied) == ("<", 1.0, True)


RATIONALE = choice(0, ("(A)", "(B)"), 1)._replace(
    references=("Two and two are four, which is the second of the two options. The answer is (B)",), match="rationale"
)
SUM = example(0, "2345")._replace(match="gsm8k")


@pytest.mark.parametrize(
    ("prediction", "asked", "reason"),
    [
        ("maybe", choice(0, ("yes", "no"), 0), "outside the options"),
        ("YES", choice(0, ("yes", "no"), 0), ""),
        (" ", example(0), "empty"),
        ("", example(0, ""), ""),
        ("Two and two are 4.", example(0, "Two and two are four, because 2 + 2 = 4. The answer is 4"), ""),
        ("4", example(0, "Two and two are four, because 2 + 2 = 4. The answer is 4"), "too short"),
        ("4", example(0, "The answer is 4"), ""),
        ("As 2 + 2 is 4, it is (B). The answer is (B)", RATIONALE, ""),
        ("(B)", RATIONALE, "too short"),
        ("The answer is (C)", RATIONALE, "outside the options"),
        ("The answer is 4,5,6", SUM, "no number"),
        ("I cannot know.", SUM, "no number"),
        ("I cannot know.", SUM._replace(match="text"), ""),
        ("It is 2 345.", SUM, ""),
        ("none", SUM._replace(references=("none",)), ""),
    ],
)
def test_an_answer_that_lost_its_form_is_named(prediction: str, asked: EvaluationExample, reason: str) -> None:
    assert degeneration(prediction, asked) == reason


def test_means_are_over_examples_that_have_the_score() -> None:
    metric = GenerationScores()
    tied = option_scores([-1.0, -1.0], [1, 1], ["yes", "no"])
    metric.update([Answer.chosen(choice(0, ("yes", "no"), 0), tied, *tied.best())])
    metric.update([Answer.of(choice(1, ("yes", "no"), 0), "perhaps"), Answer.of(example(2), "the cat sat")])
    means = metric.compute().means()
    assert means == pytest.approx(
        {"rouge_l": 2 / 3, "exact_match": 2 / 3, "token_f1": 2 / 3, "accuracy": 0.5, "degenerate": 1 / 3, "ties": 1.0}
    )
    nothing = GenerationScores()
    nothing.update([])
    assert nothing.compute().means() == {}


def test_a_task_is_scored_by_its_own_metric() -> None:
    assert score_by_metric("rouge_l", 0.3, 1.0, token_f1=0.4, accuracy=0.0) == 0.3
    assert score_by_metric("token_f1", 0.3, 1.0, token_f1=0.4) == 0.4
    assert score_by_metric("accuracy", 0.3, 1.0) == 1.0  # no options: whether the text is right
    with pytest.raises(ValueError, match="token_f1, and its answers have none"):
        score_by_metric("token_f1", 0.3, 1.0)

    signs = choice(0, ("<", ">"), 0)._replace(metric="accuracy", match="super_natural_instructions")
    metric = GenerationScores()
    metric.update([Answer.of(signs, ">")])  # which this exact match takes for "<": both are punctuation
    (instance,) = scored_instances(metric.compute(), [signs])
    assert (instance.exact_match, instance.score) == (1.0, 0.0)


def test_an_example_answered_twice_counts_once() -> None:
    metric = GenerationScores()
    metric.update([Answer.of(example(3), "the cat sat"), Answer.of(example(1), "no")])
    metric.update([])
    metric.update([Answer.of(example(3), "the cat sat"), Answer.of(example(0), "the cat")])
    scores = metric.compute()
    assert scores.number.tolist() == [0, 1, 3]
    assert scores.rouge_l.tolist() == pytest.approx([0.8, 0.0, 1.0])
    assert scores.exact_match.tolist() == [0.0, 0.0, 1.0]


def test_no_answer_at_all_is_no_error() -> None:
    metric = GenerationScores()
    metric.update([])
    assert len(metric.compute().number) == 0


SCRIPT = """
import sys, torch.distributed as dist
from crosstask.datamodules.rouge import ROUGE_L
from crosstask.datamodules.schema import EvaluationExample
from crosstask.lightning_modules.evaluation.answers import Answer
from crosstask.lightning_modules.evaluation.generation_scores import GenerationScores
dist.init_process_group("gloo")
rank = dist.get_rank()
with open(f"{sys.argv[1]}/{rank}.txt", "w") as file:
    for numbers in [(2, 6, 7), (), None]:  # of the second process, None: not even an empty batch; the first has 0 to 4
        metric = GenerationScores()
        examples = [EvaluationExample(n, "t", "c", "fully_held_out", "", "", ("x",)) for n in numbers or () if rank]
        examples += [EvaluationExample(n, "t", "c", "fully_held_out", "", "", ("x",)) for n in range(5) if not rank]
        if not rank or numbers is not None:
            metric.update([Answer(example, "", example.number / 10, False) for example in examples])
        scores = metric.compute()
        print(scores.number.tolist(), scores.rouge_l.tolist(), file=file)
dist.destroy_process_group()  # or its threads may abort the interpreter's exit
"""


@pytest.mark.distributed
def test_two_processes_agree_and_count_nothing_twice(tmp_path: Path, program: WarmProgram) -> None:
    for done in program.ranks(2, "-c", SCRIPT, str(tmp_path)):
        assert done.returncode == 0, done.stderr
    overlapping = "[0, 1, 2, 3, 4, 6, 7] [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7]"
    nothing = "[0, 1, 2, 3, 4] [0.0, 0.1, 0.2, 0.3, 0.4]"
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.txt").read_text().splitlines() == [overlapping, nothing, nothing]


def test_equal_scores_leave_no_doubt() -> None:
    assert bootstrap(np.full(50, 0.25)) == Estimate(0.25, 0.25, 0.25, 50)


def test_the_interval_is_that_of_the_normal_approximation_where_it_holds() -> None:
    values = (np.random.default_rng(0).random(2000) < 0.3).astype(float)
    estimate = bootstrap(values)
    half_width = 1.96 * values.std() / np.sqrt(2000)
    assert estimate.low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert estimate.high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_scores_keep_their_digits() -> None:
    metric = GenerationScores()
    metric.update([Answer(example(2**40 + 1), "", 1 / 3, False)])
    scores = metric.compute()
    assert scores.number.tolist() == [2**40 + 1]
    assert scores.rouge_l.tolist() == [1 / 3]
