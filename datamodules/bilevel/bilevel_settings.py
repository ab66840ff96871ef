"""Settings of instruction optimization's data: its rows, its two levels, and the texts of its instructions."""

from dataclasses import dataclass
from typing import Literal

from ..packing.row_settings import PackingName, packing_of, require_positive
from ..rendering.demonstrations import Demonstrations
from ..rendering.prompts import PromptForm


@dataclass(frozen=True)
class BilevelRows:
    """Lengths of the rows of instruction optimization; a training row holds one instance and is not packed.

    Args:
        length: Maximum number of tokens of a row, instruction and answer included; for an encoder-decoder model, of an
            encoder row.
        target_length: Maximum number of tokens of a decoder row of an encoder-decoder model; null for a decoder-only
            model.
        packing: Packing of the rows of the validation loss: ``best_fit`` leaves little padding, ``in_order`` keeps the
            order of documents, ``one_per_row`` pads each document, for models without document attention.
    """

    length: int = 1024
    target_length: int | None = None
    packing: PackingName = "best_fit"

    def __post_init__(self) -> None:
        require_positive("rows", length=self.length, target_length=self.target_length)
        packing_of(self.packing)


@dataclass(frozen=True)
class Levels:
    """Steps and batches of the two levels: inner tasks train the model (theta), outer tasks the instruction (phi).

    The preset is the datamodule's `preset`: ``paper``, ``released_code`` or ``fast`` (bilevel/presets.py).

    Args:
        inner_steps: Inner steps per outer step, K. On the command line it also sets the module's.
        inner_rows: Instances of one inner step, over all devices.
        outer_rows: Instances of an outer batch, over all devices; null for the preset's number.
        inner_prompt: Prompt form of inner instances, whose text follows the learnable instruction; null for the form
            of outer instances. TkInstructPrompt with definition false has the learnable instruction in place of the
            task's definition.
        reserve: Columns of an inner row that are kept free for the instruction; null for the preset's number.
        keep_end: Whether a source that is too long keeps its end (true) or its beginning (false); null for the
            preset's choice.
        curvature_batch: Inner instances by which the hypergradient differentiates the inner loss: ``fresh`` draws
            `outer_rows` others, ``step`` uses the batch of the inner step; null for the preset's choice.
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
        if self.reserve is not None and self.reserve < 0:
            raise ValueError(f"levels.reserve must be at least 0 columns, got {self.reserve}")


@dataclass(frozen=True)
class InstructionTexts:
    """Texts that a learnable instruction is computed from (arXiv 2306.10098).

    An embedder computes the instruction from z, the input and target of the instance. An extractor chooses it among
    exemplars, solved training examples of the task. On the command line, `length`, `exemplars` and `demonstrations`
    also set the module's arguments of these names. The preset is the datamodule's `preset`: ``paper``,
    ``released_code`` or ``fast`` (bilevel/presets.py).

    Args:
        length: Tokens of an embedder's instruction, and most tokens of an exemplar.
        exemplars: Number of exemplars that an extractor chooses among, N; 0 for an embedder.
        exemplars_of: ``task`` gives all instances of a task the same exemplars, ``instance`` gives each instance other
            ones.
        blank: Whether all exemplars but the last are blank (the proof of concept of the paper's section 4.2). true:
            as many attended padding tokens as the last one has tokens. fields: the text of an exemplar with empty input
            and output, as in the released program.
        numbered: Whether exemplars begin with "Positive Example 1 -", as the demonstration of a one-shot prompt, or
            with "Positive Example -", as in the released program.
        demonstrations: Number of chosen exemplars that are demonstrations of the prompt, k: after the definition,
            separated, each with its delimiter, as in training with demonstrations (MetaICL). Outer instances, whose
            loss trains the instructions, then have k random demonstrations as in few-shot evaluation. 0 puts one chosen
            exemplar before the text, as in the paper.
        separator: Text between the examples of a prompt with chosen demonstrations.
        exclude_self: Whether an instance is never among its own exemplars; null for the preset's choice.
        pair_length: Maximum number of tokens of z.
        pair_target: Whether z contains the target, as in the paper's Eq. 4, or the input alone.
    """

    length: int = 64
    exemplars: int = 0
    exemplars_of: Literal["task", "instance"] = "task"
    blank: bool | Literal["fields"] = False
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
        """Maximum number of tokens of an instruction, without the definition that precedes demonstrations."""
        return self.length * max(self.demonstrations, 1)
