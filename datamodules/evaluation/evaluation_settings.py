"""Settings of evaluation by prompts: numbers of demonstrations, the length of answers, the ranking of options."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..packing.row_settings import require_positive
from .options import OptionRanking


@dataclass(frozen=True)
class Evaluation:
    """Settings of evaluation by prompts.

    Args:
        shots: Number of demonstrations before each evaluated example; fewer if they do not fit into the prompt. A list
            evaluates every example with each of the numbers.
        shot_separator: Text between two demonstrations.
        chosen: Folder of learned demonstrations, from `crosstask export` of a run with the instruction
            ``direct_extractor``. A training task with learned demonstrations has them first. Null for random ones.
        max_new_tokens: Maximum number of tokens of a generated answer.
        batch_tokens: Maximum number of tokens of an evaluation batch, answers included.
        ranking: Ranks the options of examples that have options, and generates answers to the others; null generates
            an answer to every example.
    """

    shots: int | list[int] = 0
    shot_separator: str = "\n\n"
    chosen: str | None = None
    max_new_tokens: int = 256
    batch_tokens: int = 32_768
    ranking: OptionRanking | None = None

    def __post_init__(self) -> None:
        require_positive("evaluation", max_new_tokens=self.max_new_tokens, batch_tokens=self.batch_tokens)
        if self.batch_tokens <= self.max_new_tokens:
            raise ValueError(
                f"evaluation.batch_tokens = {self.batch_tokens} leave no room for a prompt beside "
                f"evaluation.max_new_tokens = {self.max_new_tokens}"
            )
        numbers = self.shot_numbers
        if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
            raise ValueError(f"evaluation.shots must be different numbers of at least 0, got {self.shots}")
        if self.chosen is not None and not max(numbers):
            raise ValueError("evaluation.chosen are demonstrations: set evaluation.shots to their number, got 0")

    @property
    def shot_numbers(self) -> tuple[int, ...]:
        """All numbers of demonstrations that examples are evaluated with."""
        return tuple(self.shots) if isinstance(self.shots, Sequence) else (self.shots,)
