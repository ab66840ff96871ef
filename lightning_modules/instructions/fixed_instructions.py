"""Instructions without parameters: the baselines of Tables 2 and 3 of arXiv 2306.10098.

Without outer parameters there is no outer step: the model is trained on the same stream, with the text of the
datamodule's ``inner_prompt``. The baselines are definitions with or without positive and negative examples and
explanations (`NoInstruction`), and a random exemplar per task or per instance, or a blank (`FirstExemplar`).
"""

import torch

from ...datamodules.bilevel.exemplars import InstructionInputs
from .learnable_instructions import (
    Instruction,
    LearnableInstruction,
    Reader,
    exemplar_instruction,
    fully_attended,
    require_exemplars,
)


class NoInstruction(LearnableInstruction):
    """An instruction of 0 columns."""

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        no_ids_B0 = inputs.pair_ids[:, :0]
        return fully_attended(model.embed(no_ids_B0))


class FirstExemplar(LearnableInstruction):
    """Always the first exemplar: a random one, or a blank if the datamodule's exemplars are blank.

    Args:
        attend_padding: See ``Extractor``.
    """

    def __init__(self, *, attend_padding: bool = False) -> None:
        super().__init__()
        self.attend_padding = attend_padding

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        ids_BNC, mask_BNC = require_exemplars(inputs)
        first_B = torch.zeros(len(ids_BNC), dtype=torch.long, device=ids_BNC.device)
        embedded_BCD = model.embed(ids_BNC[:, 0])
        return exemplar_instruction(embedded_BCD, mask_BNC[:, 0], first_B, attend_padding=self.attend_padding)
