"""Losses of a scorer: squared error on correctness, or a ranking loss over an instruction's responses.

A ranking loss compares the responses to one instruction and does not determine the absolute level of their scores. Each
instruction has the same weight, however many responses it has: its loss is a mean over comparisons (as in Ouyang et
al., arXiv 2203.02155, equation 1) or one cross entropy over responses.
"""

# S pairs, G groups, M pairs of the largest group

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

ScorerLoss = Literal["regression", "pairwise", "listwise"]


def scorer_losses(
    loss: ScorerLoss, scores_S: Tensor, labels_S: Tensor, groups: Sequence[int], *, label_temperature: float
) -> Tensor:
    """Return the losses of a batch: [S], one per pair, for regression; [G], one per group, for a ranking loss.

    Args:
        loss: "regression", "pairwise" or "listwise".
        scores_S: Raw scores of the pairs, [S].
        labels_S: Correctness of the pairs' responses in [0, 1].
        groups: Number of pairs of each group (the responses to one instruction), in order; empty for regression.
        label_temperature: Temperature of the labels' softmax in the listwise loss.

    Raises:
        ValueError: A ranking loss gets pairs without groups, or regression gets groups.
    """
    if loss == "regression":
        if groups:
            raise ValueError("regression is a mean over single pairs: set the datamodule's grouped to false")
        return squared_errors(scores_S, labels_S)
    if sum(groups) != len(scores_S):
        raise ValueError(
            f"a {loss} loss compares the responses to an instruction, and {len(scores_S) - sum(groups)} of "
            f"{len(scores_S)} pairs came without theirs: set the datamodule's grouped to true"
        )
    if loss == "pairwise":
        return pairwise_losses(scores_S, labels_S, groups)
    return listwise_losses(scores_S, labels_S, groups, label_temperature=label_temperature)


def squared_errors(scores_S: Tensor, labels_S: Tensor) -> Tensor:
    """Return the squared errors [S] of raw scores, in float32 or better."""
    return F.mse_loss(_wide(scores_S), labels_S.to(_wide(scores_S).dtype), reduction="none")


def pairwise_losses(scores_S: Tensor, labels_S: Tensor, groups: Sequence[int]) -> Tensor:
    """Return the negative log-likelihoods [G] that the better of two responses wins (Bradley-Terry), averaged by group.

    A comparison of labels y_i > y_j has the loss -log sigmoid(s_i - s_j) (Burges et al. 2005, "Learning to rank using
    gradient descent"), as for reward models. Its weight is y_i - y_j, the cost of choosing the wrong response;
    LambdaRank also weights a pair by how much swapping it changes the metric (Burges 2010, MSR-TR-2010-82, section 4).
    A difference between ROUGE-L of 0.31 and 0.30 is mostly noise. Labels of only 0 and 1 give the unweighted loss. A
    group of equal labels has the loss 0.

    Args:
        scores_S: Raw scores of the pairs.
        labels_S: Correctness of the pairs' responses in [0, 1].
        groups: Number of pairs of each group (the responses to one instruction), in order.
    """
    scores_GM, labels_GM, real_GM = _by_group(scores_S, labels_S, groups)
    gains_GMM = (labels_GM.unsqueeze(2) - labels_GM.unsqueeze(1)).clamp(min=0)
    gains_GMM = gains_GMM * real_GM.unsqueeze(2) * real_GM.unsqueeze(1)
    losses_GMM = F.softplus(scores_GM.unsqueeze(1) - scores_GM.unsqueeze(2))  # [i, j]: -log sigmoid(s_i - s_j)
    total_G = gains_GMM.sum(dim=(1, 2))
    return (gains_GMM * losses_GMM).sum(dim=(1, 2)) / total_G.where(total_G > 0, 1.0)


def listwise_losses(scores_S: Tensor, labels_S: Tensor, groups: Sequence[int], *, label_temperature: float) -> Tensor:
    """Return the cross entropies [G] between softmax(labels / temperature) and softmax(scores) over each group.

    This is ListNet's top-one loss (Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach",
    equation 4). The paper's labels are grades 0 to 5, ours are in [0, 1]: at the paper's temperature of 1 a right
    response is e times as probable as a wrong one, at 0.1 20,000 times.

    Args:
        scores_S: Raw scores of the pairs.
        labels_S: Correctness of the pairs' responses in [0, 1].
        groups: Number of pairs of each group (the responses to one instruction), in order.
        label_temperature: Temperature of the labels' softmax.
    """
    scores_GM, labels_GM, real_GM = _by_group(scores_S, labels_S, groups)
    targets_GM = (labels_GM / label_temperature).masked_fill(~real_GM, -torch.inf).softmax(dim=1)
    logs_GM = scores_GM.masked_fill(~real_GM, -torch.inf).log_softmax(dim=1).masked_fill(~real_GM, 0.0)
    return -(targets_GM * logs_GM).sum(dim=1)


def _by_group(scores_S: Tensor, labels_S: Tensor, groups: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores and labels [G, M] in float32 or better, padded with 0, and the mask bool [G, M] of real pairs."""
    scores_S = _wide(scores_S)
    if not groups:
        empty = scores_S.view(0, 1)
        return empty, empty, empty.bool()
    real = [torch.ones(size, dtype=torch.bool, device=scores_S.device) for size in groups]
    parts = scores_S.split(list(groups)), labels_S.to(scores_S.dtype).split(list(groups)), real
    scores_GM, labels_GM, real_GM = (pad_sequence(list(part), batch_first=True) for part in parts)
    return scores_GM, labels_GM, real_GM


def _wide(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
