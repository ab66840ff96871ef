"""Arguments of instruction optimization's data: its rows, its two levels, and the texts of its instructions."""

from dataclasses import dataclass
from typing import Literal

from ..packing.row_settings import PackingName, packing_of, require_positive
from ..rendering.demonstrations import Demonstrations
from ..rendering.prompts import PromptForm


@dataclass(frozen=True)
class BilevelRows:
    """Rows of one instance each.

    Args:
        length: Most tokens of a row, instruction and answer included; for an encoder-decoder model, of the encoder.
        target_length: Most target tokens of an encoder-decoder model; null for a decoder-only model.
        packing: How documents share the rows of the validation loss; one_per_row for models that cannot be packed.
    """

    length: int = 1024
    target_length: int | None = None
    packing: PackingName = "best_fit"

    def __post_init__(self) -> None:
        require_positive("rows", length=self.length, target_length=self.target_length)
        packing_of(self.packing)


@dataclass(frozen=True)
class Levels:
    """The steps of theta on inner tasks and of phi on outer tasks.

    Args:
        inner_steps: Theta steps for one step of phi, K; linked to the module's.
        inner_rows: Instances of one theta step, over all devices.
        outer_rows: Instances of an outer batch, over all devices; null for the preset's number.
        inner_prompt: How inner instances are rendered behind the learnable instruction; null for the outer ones' form.
            TkInstructPrompt with definition false replaces the definition by the learnable instruction.
        reserve: Columns that the text leaves free for the instruction; null for the preset's number.
        keep_end: Whether a source that is too long keeps its end rather than its beginning; null for the preset's
            choice.
        curvature_batch: The inner batch of the hypergradient: a fresh one, or that of its theta step; null for the
            preset's choice.
    """

    inner_steps: int = 20
    inner_rows: int = 2
    outer_rows: int | None = None
    inner_prompt: PromptForm | None = None
    reserve: int | None = None
    keep_end: bool | None = None
    curvature_batch: Literal["fresh", "step"] | None = None

    def __post_init__(self) -> None:
        steps = {"inner_steps": self.inner_steps, "inner_rows": self.inner_rows, "outer_rows": self.outer_rows}
        require_positive("levels", **steps)


@dataclass(frozen=True)
class InstructionTexts:
    """The texts that a learnable instruction is computed from.

    Args:
        length: Tokens of an embedder's instruction, and most tokens of an exemplar; linked to the module's.
        exemplars: Exemplars an extractor chooses among, N, or 0 for an embedder; linked to the module's.
        exemplars_of: Whether the instances of a task share their exemplars, or each instance has other ones.
        blank: Whether all exemplars but the last are blank.
        numbered: Whether exemplars are headed "Positive Example 1 -", as the demonstration of a one-shot prompt, or
            "Positive Example -", as in the released program.
        demonstrations: Exemplars that stand in the prompt as demonstrations, k, rendered as in training with
            demonstrations (MetaICL): behind the definition, separated, each with its delimiter. The outer instances
            then have k demonstrations as in few-shot evaluation. 0 for one exemplar before the text, as in the paper;
            linked to the module's.
        separator: Text between the examples of an inner prompt with demonstrations.
        exclude_self: Whether an instance is excluded from its own exemplars; null for the preset's choice.
        pair_length: Longest text z of an instance in tokens, input and target together.
        pair_target: Whether z contains the target, as in the paper's Eq. 4.
    """

    length: int = 64
    exemplars: int = 0
    exemplars_of: Literal["task", "instance"] = "task"
    blank: bool = False
    numbered: bool = False
    demonstrations: int = 0
    separator: str = Demonstrations.separator
    exclude_self: bool | None = None
    pair_length: int = 128
    pair_target: bool = True

    def __post_init__(self) -> None:
        require_positive("instructions", length=self.length, pair_length=self.pair_length)
        if self.exemplars < 0:
            raise ValueError(f"instructions.exemplars must be at least 0, got {self.exemplars}")
        if not 0 <= self.demonstrations <= self.exemplars:
            raise ValueError(
                "instructions.demonstrations are chosen among instructions.exemplars: set 0 to "
                f"{self.exemplars}, or more exemplars, got {self.demonstrations}"
            )
        if self.demonstrations and (self.blank or self.numbered):
            raise ValueError(
                "instructions.blank and instructions.numbered are for one exemplar before the text: leave them out, "
                "or set instructions.demonstrations to 0"
            )

    @property
    def most_tokens(self) -> int:
        """Most tokens of an instruction, without the definition that precedes demonstrations."""
        return self.length * max(self.demonstrations, 1)
