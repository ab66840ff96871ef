"""Instructions that nobody learns: the rows of the paper's tables that learnable ones are compared with.

Without outer parameters there is no outer step, and what remains is plain training behind the text that the
datamodule's ``inner_prompt`` writes, over the same stream. Tables 2 and 3 of arXiv 2306.10098: definitions, with
positive and negative examples and explanations (no instruction of ours before them); a random exemplar per task or per
instance, or a blank, in the place of a learned choice.
"""

import torch

from ...datamodules.bilevel.exemplars import InstructionInputs
from .learnable_instructions import (
    Instruction,
    LearnableInstruction,
    Reader,
    all_read,
    exemplars_of,
    instruction_of_exemplar,
)


class NoInstruction(LearnableInstruction):
    """Nothing before the text: 0 columns."""

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        nothing_B0 = inputs.pair_ids[:, :0]
        return all_read(model.embed(nothing_B0))


class FirstExemplar(LearnableInstruction):
    """Always the first exemplar: a random exemplar where exemplars are exemplars, a blank where the others are.

    Args:
        attend_padding: See ``Extractor``.
    """

    def __init__(self, *, attend_padding: bool = False) -> None:
        super().__init__()
        self.attend_padding = attend_padding

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        ids_BNC, mask_BNC = exemplars_of(inputs)
        first_B = torch.zeros(len(ids_BNC), dtype=torch.long, device=ids_BNC.device)
        embedded_BCD = model.embed(ids_BNC[:, 0])
        return instruction_of_exemplar(embedded_BCD, mask_BNC[:, 0], first_B, attend_padding=self.attend_padding)
