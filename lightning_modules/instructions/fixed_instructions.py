"""Instructions without parameters: the baselines of Tables 2 and 3 of arXiv 2306.10098.

There are no outer parameters and so no outer steps: the model is trained on the same stream, and the datamodule's
``inner_prompt`` decides its text. `NoInstruction` is for definitions, with or without positive examples, negative
examples and explanations. `FirstExemplar` is for a random exemplar per task or per instance, or a blank.
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
    """An instruction without tokens."""

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        no_ids_B0 = inputs.pair_ids[:, :0]
        return fully_attended(model.embed(no_ids_B0))


class FirstExemplar(LearnableInstruction):
    """The first exemplar of the batch's exemplars: a random one, or a blank if the datamodule's exemplars are blank.

    Args:
        attend_padding: Whether padding behind the exemplar is attended; see ``Extractor``.
    """

    def __init__(self, *, attend_padding: bool = False) -> None:
        super().__init__()
        self.attend_padding = attend_padding

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        ids_BNC, mask_BNC = require_exemplars(inputs)
        first_B = torch.zeros(len(ids_BNC), dtype=torch.long, device=ids_BNC.device)
        embedded_BCD = model.embed(ids_BNC[:, 0])
        return exemplar_instruction(embedded_BCD, mask_BNC[:, 0], first_B, attend_padding=self.attend_padding)
