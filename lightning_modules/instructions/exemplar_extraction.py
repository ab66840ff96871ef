"""The choice among exemplars: which are chosen, and the weights by which their scores learn."""

# B instances, K choices, N exemplars, C tokens of an exemplar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datamodules.bilevel.exemplars import InstructionInputs


def choose_in_turn(scores_BN: Tensor, inputs: InstructionInputs, number: int) -> tuple[Tensor, Tensor]:
    """The exemplars with the highest scores, one after another, each of another text than those before it.

    Args:
        scores_BN: Scores of the exemplars, of which the first of the highest ones is chosen.
        inputs: The exemplars; one without tokens is missing. No more are chosen than `places`.
        number: Exemplars to choose, K.

    Returns:
        int64 [B, K], their indices, -1 where none is left; and bool [B, K, N], those that each was chosen among.
    """
    ids_BNC, mask_BNC = require_exemplars(inputs)
    rows_B = torch.arange(len(scores_BN), device=scores_BN.device)
    open_BN, chosen, among = mask_BNC.any(dim=2), [], []
    for turn in range(number):
        open_now_BN = open_BN if inputs.places is None else open_BN & (inputs.places > turn).unsqueeze(1)
        best_B = scores_BN.masked_fill(~open_now_BN, -torch.inf).argmax(dim=1)
        chosen.append(best_B.where(open_now_BN.any(dim=1), -1))
        among.append(open_now_BN)
        if turn + 1 < number:
            equal_BNC = (ids_BNC == ids_BNC[rows_B, best_B].unsqueeze(1)) & (
                mask_BNC == mask_BNC[rows_B, best_B].unsqueeze(1)
            )
            open_BN = open_BN & ~equal_BNC.all(dim=2)
    return torch.stack(chosen, dim=1), torch.stack(among, dim=1)


def choice_weights(scores_BN: Tensor, open_BKN: Tensor, *, soft: bool) -> Tensor:
    """Weights [B, K, N] of the exemplars in each choice; 0 where none is left.

    Args:
        scores_BN: Scores of the exemplars.
        open_BKN: The exemplars that each choice is among.
        soft: Whether the weights are the softmax of the scores instead of the choice, ``straight_through``.
    """
    lowest = torch.finfo(scores_BN.dtype).min
    scores_BKN = scores_BN.unsqueeze(1).masked_fill(~open_BKN, lowest)
    weights_BKN = scores_BKN.softmax(dim=-1) if soft else straight_through(scores_BKN)
    return weights_BKN * open_BKN.any(dim=-1, keepdim=True)


def chosen_of(values_BNC: Tensor, chosen_BK: Tensor) -> Tensor:
    """The values [B, K, C] of the chosen exemplars; those of the first exemplar for -1."""
    rows_B1 = torch.arange(len(chosen_BK), device=chosen_BK.device).unsqueeze(1)
    return values_BNC[rows_B1, chosen_BK.clamp(min=0)]


def straight_through(scores_BN: Tensor) -> Tensor:
    """The argmax of the last dimension as a one-hot vector, with the gradient of the softmax; without noise.

    >>> straight_through(torch.tensor([[0.0, 2.0, 1.0]])).round(decimals=3)
    tensor([[0., 1., 0.]])
    """
    soft_BN = scores_BN.softmax(dim=-1)
    hard_BN = F.one_hot(scores_BN.argmax(dim=-1), scores_BN.shape[-1]).to(soft_BN.dtype)
    return hard_BN - soft_BN.detach() + soft_BN


def require_exemplars(inputs: InstructionInputs) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, C] of the exemplars, and their mask.

    Raises:
        ValueError: The batch has no exemplars.
    """
    if inputs.exemplar_ids is None or inputs.exemplar_mask is None:
        raise ValueError(
            "the instruction chooses among exemplars, and the batch has none: set the datamodule's exemplars"
        )
    return inputs.exemplar_ids, inputs.exemplar_mask
