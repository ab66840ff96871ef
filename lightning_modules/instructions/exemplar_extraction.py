"""The choice among exemplars: which are chosen, and the weights by which their scores learn."""

# B instances, K choices, N exemplars, C tokens of an exemplar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...datamodules.bilevel.exemplars import InstructionInputs


def choose_in_turn(scores_BN: Tensor, inputs: InstructionInputs, number: int) -> tuple[Tensor, Tensor]:
    """Choose up to K exemplars with the highest scores and different texts for each instance.

    Args:
        scores_BN: Scores of the exemplars. Of equal scores the first is chosen.
        inputs: The exemplars; one without tokens is missing. ``inputs.places`` has the largest number for each
            instance.
        number: Exemplars to choose, K.

    Returns:
        int64 [B, K], indices of the chosen exemplars by descending score, -1 where none is left; and bool [B, K, N],
        the exemplars that were left at each choice.
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
    """Return the differentiable weights [B, K, N] with which each of K choices mixes the exemplars' embeddings.

    Args:
        scores_BN: Scores of the exemplars.
        open_BKN: Bool, the exemplars that are left at each choice; with none left, the weights are 0.
        soft: Whether the weights are the softmax of the scores. If not, they are 1 for the highest score and 0 for the
            others, with the gradient of the softmax.
    """
    lowest = torch.finfo(scores_BN.dtype).min
    scores_BKN = scores_BN.unsqueeze(1).masked_fill(~open_BKN, lowest)
    weights_BKN = scores_BKN.softmax(dim=-1) if soft else straight_through(scores_BKN)
    return weights_BKN * open_BKN.any(dim=-1, keepdim=True)


def chosen_of(values_BNC: Tensor, chosen_BK: Tensor) -> Tensor:
    """Return the values [B, K, C] of the chosen exemplars, from the values [B, N, C] of all of them.

    >>> chosen_of(torch.tensor([[[5], [6], [7]]]), torch.tensor([[2, -1]])).tolist()
    [[[7], [5]]]

    Args:
        values_BNC: Values of the exemplars, such as token ids.
        chosen_BK: Indices of the chosen ones; -1, for none, gets the values of the first exemplar.
    """
    rows_B1 = torch.arange(len(chosen_BK), device=chosen_BK.device).unsqueeze(1)
    return values_BNC[rows_B1, chosen_BK.clamp(min=0)]


def straight_through(scores_BN: Tensor) -> Tensor:
    """Return the argmax of the last dimension as a one-hot vector, with the gradient of the softmax.

    It is the straight-through estimator, without Gumbel noise.

    >>> straight_through(torch.tensor([[0.0, 2.0, 1.0]])).round(decimals=3)
    tensor([[0., 1., 0.]])
    """
    soft_BN = scores_BN.softmax(dim=-1)
    hard_BN = F.one_hot(scores_BN.argmax(dim=-1), scores_BN.shape[-1]).to(soft_BN.dtype)
    return hard_BN - soft_BN.detach() + soft_BN


def require_exemplars(inputs: InstructionInputs) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, int64 [B, N, C] each, of the N exemplars of each instance in a batch.

    Raises:
        ValueError: The batch has no exemplars.
    """
    if inputs.exemplar_ids is None or inputs.exemplar_mask is None:
        raise ValueError(
            "the instruction chooses among exemplars, and the batch has none: set the datamodule's exemplars"
        )
    return inputs.exemplar_ids, inputs.exemplar_mask
