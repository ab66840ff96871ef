"""Learnable instructions: modules that return input embeddings to place before the text of a language model.

An *embedder* returns l free embeddings; an *extractor* chooses one of N exemplars. Both take their numbers from a table
with a row per task (*direct* parameterization), or compute them from the text z of the instance (*instance*
conversion)::

                   direct                              instance
    embedder       table[task]               [l, D]    W mean(V[z])                        [l, D]
    extractor      logits[task]              [N]       mean(V[exemplar]) B mean(V[z])      [N]

Each is called with the inputs of the instances and a ``Reader`` of the model, and returns an ``Instruction``. Their
parameters are the outer parameters (phi). The embeddings of an exemplar are those of the language model (Eq. 9), which
is therefore trained through them.

Source: Differentiable Instruction Optimization (arXiv 2306.10098), section 3; sizes and initial values are those of the
program released with it.
"""

# B instances, I columns of an instruction (l of an embedder, C tokens of an exemplar), N exemplars, P tokens of z,
# D width of the model's input embeddings, W width of the texts' representations (d' in the paper)

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from ...datamodules.bilevel.exemplars import InstructionInputs


class Instruction(NamedTuple):
    """Learnable instructions of B instances.

    Args:
        embeddings: [B, I, D].
        mask: int64 [B, I], 0 at columns that are not attended.
        chosen: int64 [B], indices of the extractor's exemplars; None for an embedder.
    """

    embeddings: Tensor
    mask: Tensor
    chosen: Tensor | None = None


class Reader(NamedTuple):
    """Functions of the language model that learnable instructions may call.

    Args:
        embed: Input embeddings [..., D] of token ids [...].
        encode: Last hidden states [n, L, D] of token ids [n, L] under a mask [n, L].
    """

    embed: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor, Tensor], Tensor]


class InstructionShape(NamedTuple):
    """Sizes that a learnable instruction of a user's project is built for.

    Args:
        tasks: Inner tasks, T; ``inputs.tasks`` are below it.
        length: Embeddings of an instruction, l.
        exemplars: Exemplars in the inputs, N; 0 for none.
        width: Width of the model's input embeddings, D.
        vocabulary: Tokens of the tokenizer.
    """

    tasks: int
    length: int
    exemplars: int
    width: int
    vocabulary: int


class LearnableInstruction(nn.Module, ABC):
    """A module that maps the inputs of B instances to their instructions."""

    task_parameters: tuple[str, ...] = ()
    """Names of the parameters whose first dimension are the inner tasks."""

    @abstractmethod
    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction: ...


class DirectEmbedder(LearnableInstruction):
    """A table of instructions, one per task, initialized from N(0, 1).

    Args:
        tasks: Number of inner tasks.
        length: Embeddings of an instruction, l.
        width: Width of the model's input embeddings, D.
    """

    task_parameters = ("table",)

    def __init__(self, tasks: int, length: int, width: int) -> None:
        super().__init__()
        self.table = Parameter(torch.randn(tasks, length, width))

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        return fully_attended(self.table[inputs.tasks])


class InstanceEmbedder(LearnableInstruction):
    """Instructions that are a linear function, without a bias, of the representation of each instance.

    Args:
        texts: Represents z by W numbers.
        length: Embeddings of an instruction, l.
        width: Width of the model's input embeddings, D.
    """

    def __init__(self, texts: "TextRepresentation", length: int, width: int) -> None:
        super().__init__()
        self.texts, self.shape = texts, (length, width)
        self.convert = nn.Linear(texts.width, length * width, bias=False)

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        z_BW = self.texts(inputs.pair_ids, inputs.pair_mask, model)
        return fully_attended(self.convert(z_BW).unflatten(-1, self.shape))


class Extractor(LearnableInstruction):
    """Chooses the exemplar with the highest score and returns its embeddings.

    Args:
        soft: Whether to return the exemplars' expectation under the softmax of the scores (footnote 2) instead.
        attend_padding: Whether padding behind a chosen exemplar is attended, as in the released program. Otherwise it
            is masked and moved before the exemplar, which then is computed as if it were alone.
    """

    def __init__(self, *, soft: bool, attend_padding: bool) -> None:
        super().__init__()
        self.soft, self.attend_padding = soft, attend_padding

    @abstractmethod
    def scores(self, inputs: InstructionInputs, model: Reader) -> Tensor:
        """Scores [B, N] of the exemplars: the logits of their softmax."""

    def share_of_last(self, inputs: InstructionInputs, model: Reader) -> float:
        """Share of the instances whose chosen exemplar is the last one."""
        scores_BN = self.scores(inputs, model)
        return (scores_BN.argmax(dim=1) == scores_BN.shape[1] - 1).float().mean().item()

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        ids_BNC, mask_BNC = require_exemplars(inputs)
        scores_BN = self.scores(inputs, model)
        chosen_B = scores_BN.argmax(dim=1)
        weights_BN = scores_BN.softmax(dim=1) if self.soft else straight_through(scores_BN)
        embedded_BCD = torch.einsum("bn,bncd->bcd", weights_BN, model.embed(ids_BNC).to(weights_BN.dtype))
        if self.soft:
            mask_BC = mask_BNC.amax(dim=1)
        else:
            mask_BC = mask_BNC[torch.arange(len(chosen_B), device=chosen_B.device), chosen_B]
        return exemplar_instruction(embedded_BCD, mask_BC, chosen_B, attend_padding=self.attend_padding)


class DirectExtractor(Extractor):
    """A table of logits, one row per task, initialized to 1, so that the first exemplar is chosen at first.

    Args:
        tasks: Number of inner tasks.
        exemplars: Exemplars of each task, N.
        soft: See ``Extractor``.
        attend_padding: See ``Extractor``.
    """

    task_parameters = ("logits",)

    def __init__(self, tasks: int, exemplars: int, *, soft: bool = False, attend_padding: bool = False) -> None:
        super().__init__(soft=soft, attend_padding=attend_padding)
        self.logits = Parameter(torch.ones(tasks, 1, exemplars))  # one exemplar is chosen: [tasks, 1, N]

    def scores(self, inputs: InstructionInputs, model: Reader) -> Tensor:
        return self.logits[inputs.tasks, 0]

    def share_of_last(self, inputs: InstructionInputs, model: Reader) -> float:
        """Share of all tasks whose chosen exemplar is the last one."""
        return (self.logits.argmax(dim=2) == self.logits.shape[2] - 1).float().mean().item()


class InstanceExtractor(Extractor):
    """Scores exemplars by a bilinear form of their representations and the instance's, both computed with the same V.

    Args:
        texts: Represents exemplars and z by W numbers each.
        soft: See ``Extractor``.
        attend_padding: See ``Extractor``.
    """

    def __init__(self, texts: "TextRepresentation", *, soft: bool = False, attend_padding: bool = False) -> None:
        super().__init__(soft=soft, attend_padding=attend_padding)
        self.texts = texts
        self.match = nn.Bilinear(texts.width, texts.width, 1, bias=False)

    def scores(self, inputs: InstructionInputs, model: Reader) -> Tensor:
        ids_BNC, mask_BNC = require_exemplars(inputs)
        h_BNW = self.texts(ids_BNC.flatten(0, 1), mask_BNC.flatten(0, 1), model).unflatten(0, ids_BNC.shape[:2])
        z_BW = self.texts(inputs.pair_ids, inputs.pair_mask, model)
        return self.match(h_BNW, z_BW.unsqueeze(1).expand_as(h_BNW).contiguous()).squeeze(-1)


class TextRepresentation(nn.Module, ABC):
    """A module that maps token ids [n, P] and their mask to representations [n, W]."""

    width: int

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor, model: Reader) -> Tensor: ...


class MeanEmbedding(TextRepresentation):
    """The mean of the tokens' rows in a table V, which is not the language model's.

    Args:
        vocabulary: Rows of V, initialized from N(0, 1).
        width: Columns of V, W.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(vocabulary, width)

    def forward(self, ids: Tensor, mask: Tensor, model: Reader) -> Tensor:
        return masked_mean(self.table(ids), mask)


class ModelStates(TextRepresentation):
    """The mean of the language model's last hidden states (footnote 1; the authors found it unstable).

    It has no parameters and changes with theta: an extractor may choose different exemplars at the two points of a
    finite difference.

    Args:
        width: Width of the model's hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, ids: Tensor, mask: Tensor, model: Reader) -> Tensor:
        return masked_mean(model.encode(ids, mask), mask)


def straight_through(scores_BN: Tensor) -> Tensor:
    """The argmax as a one-hot vector, with the gradient of the softmax; without noise or temperature.

    >>> straight_through(torch.tensor([[0.0, 2.0, 1.0]])).round(decimals=3)
    tensor([[0., 1., 0.]])
    """
    soft_BN = scores_BN.softmax(dim=1)
    hard_BN = F.one_hot(scores_BN.argmax(dim=1), scores_BN.shape[1]).to(soft_BN.dtype)
    return hard_BN - soft_BN.detach() + soft_BN


def masked_mean(states_BPW: Tensor, mask_BP: Tensor) -> Tensor:
    """Mean [B, W] over the columns that are not masked; 0 if all are."""
    weights_BP1 = mask_BP.to(states_BPW.dtype).unsqueeze(-1)
    return (states_BPW * weights_BP1).sum(dim=1) / weights_BP1.sum(dim=1).clamp(min=1)


def align_right(states_BCD: Tensor, mask_BC: Tensor) -> tuple[Tensor, Tensor]:
    """States and mask, with the padding moved from the end of each row to its beginning.

    >>> states, mask = align_right(torch.tensor([[[5.0], [6.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
    >>> states.flatten().tolist(), mask.tolist()
    ([0.0, 5.0, 6.0], [[0, 1, 1]])
    """
    columns = mask_BC.shape[1]
    padding_B1 = columns - mask_BC.sum(dim=1, keepdim=True)
    columns_BC = (torch.arange(columns, device=mask_BC.device) - padding_B1) % columns
    moved_BCD = states_BCD.gather(1, columns_BC.unsqueeze(-1).expand_as(states_BCD))
    return moved_BCD, mask_BC.gather(1, columns_BC)


def exemplar_instruction(
    embedded_BCD: Tensor, mask_BC: Tensor, chosen_B: Tensor, *, attend_padding: bool
) -> Instruction:
    """Instructions of the chosen exemplars; padding is attended, or masked and moved to the beginning."""
    if attend_padding:
        return fully_attended(embedded_BCD)._replace(chosen=chosen_B)
    return Instruction(*align_right(embedded_BCD, mask_BC), chosen_B)


def fully_attended(embeddings: Tensor) -> Instruction:
    """An instruction of embeddings [B, I, D] without a masked column."""
    return Instruction(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device))


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
