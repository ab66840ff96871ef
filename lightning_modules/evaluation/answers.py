"""One answer and its scores: exact match, token F1, ROUGE-L, accuracy, and whether the model degenerated."""

from typing import Any, NamedTuple

from ...datamodules.rouge import rouge_l
from ...datamodules.schema import EvaluationExample, Metric
from .option_scores import OptionScores
from .text_metrics import Degeneration, degeneration, exact_match, matched_option, token_f1


class Answer(NamedTuple):
    """A prediction and its scores: what evaluation steps return, one for each example.

    Args:
        example: What was asked.
        prediction: The text that was written, or the option that was chosen.
        rouge_l: In [0, 1].
        exact_match: Whether it equals a reference.
        token_f1: In [0, 1].
        accuracy: 1 where it is the right option, 0 where it is not, None for an example without options.
        degenerate: How the answer lost its form.
        options: Scores of the options, where they were ranked.
        tied: Whether another option has the score of the chosen one, which is the first of them.
    """

    example: EvaluationExample
    prediction: str
    rouge_l: float
    exact_match: bool
    token_f1: float = 0.0
    accuracy: float | None = None
    degenerate: Degeneration = ""
    options: OptionScores | None = None
    tied: bool = False

    @classmethod
    def of(cls, example: EvaluationExample, prediction: str) -> "Answer":
        """Score a written answer against its example's references and options."""
        references = example.references
        right = None if example.answer is None else float(matched_option(prediction, example.options) == example.answer)
        return cls(
            example,
            prediction,
            rouge_l(prediction, references),
            exact_match(prediction, references),
            token_f1(prediction, references),
            right,
            degeneration(prediction, example),
        )

    @classmethod
    def chosen(cls, example: EvaluationExample, scores: OptionScores, place: int, tied: bool) -> "Answer":
        """Score the choice of an option."""
        right = None if example.answer is None else float(place == example.answer)
        text = example.options[place].strip()
        return cls.of(example, text)._replace(accuracy=right, options=scores, tied=tied)

    def details(self) -> dict[str, Any]:
        """What a line of JSON tells beside ROUGE-L and exact match; of ranked options, all their scores."""
        found: dict[str, Any] = {"token_f1": self.token_f1}
        if self.accuracy is not None:
            found |= {"accuracy": self.accuracy, "right_option": self.example.options[self.example.answer or 0]}
        if self.degenerate:
            found["degenerate"] = self.degenerate
        if self.options is not None:
            found["options"] = {
                option.strip(): {name: each[place] for name, each in self.options._asdict().items() if each}
                for place, option in enumerate(self.example.options)
            }
            found["tied"] = self.tied
        return found

    def score(self, metric: Metric) -> float:
        """The score by a task's own metric; accuracy without options is whether the text is right."""
        value = self.exact_match if metric == "accuracy" and self.accuracy is None else getattr(self, metric)
        return float(value)
