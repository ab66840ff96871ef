"""Settings of the scorer's data: rows of pairs, training responses beside the references, and evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..packing.row_settings import PackingName, packing_of, require_positive
from ..rouge import rouge_l
from .instruction_truncation import Cut
from .pair_rows import Truncation
from .pairs import CorrectnessLabel


def pair_truncation(truncation: Truncation | None, *, faithful: bool) -> Truncation:
    """Return which side of a pair that is too long is cut: ``instruction``, or ``longest_first`` for the longer one.

    Args:
        truncation: The user's setting; None for the default.
        faithful: Whether the default is that of Cappy's released program, ``longest_first``, or ``instruction``.
    """
    return truncation or ("longest_first" if faithful else "instruction")


@dataclass(frozen=True)
class PairRows:
    """Settings of the rows of a scorer's batch, each of which holds several (instruction, response) pairs.

    Args:
        length: Tokens of a row, which holds several pairs.
        pair_length: Maximum number of tokens of a pair, special tokens included; longer pairs are truncated and
            counted.
        truncation: Side of a long pair that is cut: ``instruction``, which keeps the response whole, or
            ``longest_first``, the longer side, as in Cappy's released program. Null is ``instruction``, or
            ``longest_first`` with ``augmentation.faithful``.
        cut: Part of a long instruction that is cut: ``middle``, ``end`` or ``beginning``. Null is ``middle``, since the
            definition is at the beginning and the question at the end; with ``augmentation.faithful`` it is ``end``.
        per_step: Rows of one optimizer step, over all devices and accumulated batches.
        packing: ``best_fit`` packs pairs so that little padding is left; ``in_order`` keeps their order, and a pair
            that does not fit begins a new row; ``one_per_row`` pads each pair to a row.
        grouped: Whether the pairs of an instruction are drawn and packed together, which ranking losses need. All
            instructions of a task then have the same rate. On the command line it is set from the module's `loss`.
    """

    length: int = 2048
    pair_length: int = 512
    truncation: Truncation | None = None
    cut: Cut | None = None
    per_step: int = 64
    packing: PackingName = "best_fit"
    grouped: bool = False

    def __post_init__(self) -> None:
        require_positive("rows", length=self.length, pair_length=self.pair_length, per_step=self.per_step)
        packing_of(self.packing)
        if self.pair_length > self.length:
            raise ValueError(
                f"rows.pair_length = {self.pair_length} exceeds rows.length = {self.length}: shorten pairs"
            )


@dataclass(frozen=True)
class Augmentation:
    """Settings of the responses that a scorer trains on beside the references: samples of models, and mismatches.

    A mismatch is a reference of another example of the task, with the correctness 0.

    Args:
        samples: JSONL files of responses (an object with task, id, response and generator per line), or folders that
            `crosstask samples` wrote.
        label: Function (response, references) -> correctness in [0, 1] that labels a sampled response.
        option_samples: Whether samples of examples with options are trained on, too, labelled against the right
            option. As in Cappy, they are not by default, since an option is right or wrong.
        faithful: Whether mismatches are drawn, pairs labelled and long pairs truncated as in Cappy's released program.
            Some examples then have no mismatch.
    """

    samples: Sequence[str] = ()
    label: CorrectnessLabel = rouge_l
    option_samples: bool = False
    faithful: bool = False


@dataclass(frozen=True)
class ResponseEvaluation:
    """Settings of a scorer's evaluation, which ranks the responses to each example.

    Args:
        mismatches: Number of wrong responses beside the right one, for an example without options.
        batch_tokens: Maximum number of tokens of an evaluation batch.
    """

    mismatches: int = 4
    batch_tokens: int = 32_768

    def __post_init__(self) -> None:
        require_positive("evaluation", mismatches=self.mismatches, batch_tokens=self.batch_tokens)
