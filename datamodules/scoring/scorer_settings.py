"""Arguments of the scorer's data: rows of pairs, responses beside the references, and the evaluation of responses."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..packing.row_settings import PackingName, packing_of, require_positive
from ..rouge import rouge_l
from .instruction_cuts import Cut
from .pair_rows import Truncation
from .pairs import CorrectnessLabel


def pair_truncation(truncation: Truncation | None, *, faithful: bool) -> Truncation:
    """The side of a too long pair that is cut: by default the instruction, or the longer side if `faithful`."""
    return truncation or ("longest_first" if faithful else "instruction")


@dataclass(frozen=True)
class PairRows:
    """Packed rows of scored pairs.

    Args:
        length: Columns of a row, which holds several pairs.
        pair_length: Most tokens of a pair, special ones included; longer pairs are cut and counted.
        truncation: The side of a longer pair that is cut: instruction (the default) keeps the response whole,
            longest_first is the rule of Cappy's released program, and the default with ``augmentation.faithful``.
        cut: The part of a too long instruction that is cut: by default the middle, since the definition is at the
            beginning and the question at the end; with ``augmentation.faithful`` the end, as the released program does.
        per_step: Rows of one optimizer step, over all devices and accumulated batches.
        packing: best_fit fills rows, in_order opens a new row for a pair that does not fit, one_per_row pads.
        grouped: Whether the pairs of an instruction are drawn and packed together, as ranking losses need them; on the
            command line it follows from the module's `loss`. Every instruction of a task then has the same rate.
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
    """Training responses beside the references.

    Args:
        samples: JSONL files of language models' responses, one object with task, id, response and generator a line; or
            folders of `crosstask samples`.
        label: Correctness of such a response, a function of it and the references.
        option_samples: Whether samples of an example with options are trained on, too, labelled against its right
            option. Cappy augments generation examples only: an option is right or wrong.
        faithful: Whether pairs are made as in Cappy's released program: drawn, labelled and cut as it does, which
            leaves some examples without a mismatch.
    """

    samples: Sequence[str] = ()
    label: CorrectnessLabel = rouge_l
    option_samples: bool = False
    faithful: bool = False


@dataclass(frozen=True)
class ResponseEvaluation:
    """Evaluation by ranking responses.

    Args:
        mismatches: Wrong responses beside the right one, for an example without options.
        batch_tokens: Most tokens of an evaluation batch.
    """

    mismatches: int = 4
    batch_tokens: int = 32_768

    def __post_init__(self) -> None:
        require_positive("evaluation", mismatches=self.mismatches, batch_tokens=self.batch_tokens)
