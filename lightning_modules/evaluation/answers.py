"""An answer: a model's prediction for one example, with all of its scores."""

from typing import Any, NamedTuple

from ...datamodules.rouge import ROUGE_L, Rouge, cannot_score
from ...datamodules.schema import EvaluationExample, MatchRule, Metric
from .answer_rules import answer_text, exact_match, leaves_nothing
from .option_scores import OptionScores
from .text_metrics import Degeneration, degeneration, matched_option, score_by_metric, token_f1


class Answer(NamedTuple):
    """A prediction for one example and its scores; evaluation steps return one per example.

    Args:
        example: The evaluated example.
        prediction: Generated text, or text of the chosen option.
        rouge_l: ROUGE-L in [0, 1].
        exact_match: Whether the prediction equals a reference by the rule of the benchmark's authors.
        token_f1: Token F1 in [0, 1] of the answer without its rationale.
        accuracy: 1 if the prediction is the right option, 0 if not; None for an example without options.
        degenerate: "empty", "outside the options", "no number", "too short", or "" for an answer of the expected
            form; see ``text_metrics``.
        options: Scores of the options if they were ranked, else None.
        tied: Whether another option has the same score as the chosen one.
        unread: Whether ROUGE-L finds no words in the references, e.g. in text without Latin letters.
        erased: Whether the task's rule leaves nothing of a reference, so that an empty answer would equal it.
    """

    example: EvaluationExample
    prediction: str
    rouge_l: float
    exact_match: bool
    token_f1: float = 0.0
    accuracy: float | None = None
    degenerate: Degeneration = ""
    options: "OptionScores | None" = None
    tied: bool = False
    unread: bool = False
    erased: bool = False

    @classmethod
    def of(cls, example: EvaluationExample, prediction: str, rouge: Rouge = "exact") -> "Answer":
        """Score a generated text against its example's references and options.

        Args:
            example: The evaluated example.
            prediction: The generated text.
            rouge: Implementation of ROUGE-L, as in the module's `rouge`.
        """
        references, answer = example.references, answer_text(prediction, example)
        right = _rightness(example, matched_option(answer, example.options))
        return cls(
            example,
            prediction,
            ROUGE_L[rouge](prediction, references),
            exact_match(prediction, references, example.match, example.answer_pattern),
            token_f1(answer, [answer_text(reference, example) for reference in references]),
            right,
            degeneration(prediction, example),
            unread=cannot_score(references, rouge),
            erased=any(leaves_nothing(_rule(example), reference) for reference in references),
        )

    @classmethod
    def chosen(
        cls, example: EvaluationExample, scores: OptionScores, place: int, tied: bool, rouge: Rouge = "exact"
    ) -> "Answer":
        """Score the choice of an option against its example's references and right option.

        Args:
            example: The evaluated example.
            scores: Scores of its options under the model.
            place: Index of the chosen option.
            tied: Whether another option has the same score.
            rouge: Implementation of ROUGE-L, as in the module's `rouge`.
        """
        answer = cls.of(example, example.options[place].strip(), rouge)
        return answer._replace(accuracy=_rightness(example, place), degenerate="", options=scores, tied=tied)

    def details(self) -> dict[str, Any]:
        """Return what a line of predictions has beside the text, ROUGE-L and exact match, e.g. all options' scores."""
        details: dict[str, Any] = {"token_f1": self.token_f1}
        if self.accuracy is not None:
            details |= {"accuracy": self.accuracy, "right_option": self.example.options[self.example.answer or 0]}
        if self.degenerate:
            details["degenerate"] = self.degenerate
        details |= {name: True for name in ("unread", "erased") if getattr(self, name)}
        if self.options is not None:
            details["options"] = {
                option.strip(): {name: values[place] for name, values in self.options._asdict().items() if values}
                for place, option in enumerate(self.example.options)
            }
            details["tied"] = self.tied
        return details

    def score(self, metric: Metric) -> float:
        """Return the score in [0, 1] by a task's metric, e.g. token F1 for "token_f1"."""
        accuracy = float("nan") if self.accuracy is None else self.accuracy
        return score_by_metric(metric, self.rouge_l, self.exact_match, token_f1=self.token_f1, accuracy=accuracy)


def _rightness(example: EvaluationExample, place: int | None) -> float | None:
    """Return 1 for the right option, or one among the references (as in some tasks of BIG-bench); else 0.

    None if the example has no right option.
    """
    if example.answer is None:
        return None
    named = place is not None and example.options[place].strip()
    return float(place == example.answer or named in {reference.strip() for reference in example.references})


def _rule(example: EvaluationExample) -> MatchRule:
    """Return the rule that can erase a reference; token F1 uses the words of SQuAD's rule."""
    return "squad" if example.metric == "token_f1" else example.match
