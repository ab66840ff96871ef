"""Instructions without parameters: the baselines of Tables 2 and 3 of arXiv 2306.10098.

There are no outer parameters and so no outer steps: the model is trained on the same stream, and the datamodule's
``inner_prompt`` decides its text. `NoInstruction` is for definitions, with or without positive examples, negative
examples and explanations. `FirstExemplar` is for a random exemplar per task or per instance, or a blank.
"""

import torch

from ...datamodules.bilevel.exemplars import InstructionInputs
from .exemplar_extraction import choose_in_turn, chosen_of, require_exemplars
from .learnable_instructions import (
    Instruction,
    LearnableInstruction,
    ModelFunctions,
    exemplar_instruction,
    fully_attended,
)


class NoInstruction(LearnableInstruction):
    """An instruction of no tokens, for models that read human-written definitions alone."""

    def forward(self, inputs: InstructionInputs, model: ModelFunctions) -> Instruction:
        no_ids_B0 = inputs.pair_ids[:, :0]
        return fully_attended(model.embed(no_ids_B0))


class FirstExemplar(LearnableInstruction):
    """An instruction without parameters: the first K exemplars that the datamodule has drawn for each instance.

    The datamodule draws random exemplars, or a blank.

    Args:
        number: Number of exemplars, K.
        attend_padding: Whether padding behind an exemplar is attended, as in the released program. If not, it is masked
            and moved before the exemplar.
    """

    def __init__(self, *, number: int = 1, attend_padding: bool = False) -> None:
        super().__init__()
        self.number, self.attend_padding = number, attend_padding

    def forward(self, inputs: InstructionInputs, model: ModelFunctions) -> Instruction:
        ids_BNC, mask_BNC = require_exemplars(inputs)
        equal_BN = torch.zeros(ids_BNC.shape[:2], device=ids_BNC.device)
        chosen_BK, _ = choose_in_turn(equal_BN, inputs, self.number)
        mask_BKC = chosen_of(mask_BNC, chosen_BK) * (chosen_BK >= 0).unsqueeze(-1)
        embedded_BKCD = model.embed(chosen_of(ids_BNC, chosen_BK))
        return exemplar_instruction(embedded_BKCD, mask_BKC, chosen_BK, attend_padding=self.attend_padding)
