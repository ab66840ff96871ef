"""Learnable instructions: modules that write input embeddings for a language model they know nothing of.

An *embedder* makes l embeddings out of nothing but numbers; an *extractor* chooses one of N exemplars. Either reads its
numbers from a table with a row per task (*direct* parameterization), or computes them from the text z of the instance
(*instance* conversion)::

                   direct                              instance
    embedder       table[task]               [l, D]    W mean(V[z])                        [l, D]
    extractor      logits[task]              [N]       mean(V[exemplar]) B mean(V[z])      [N]

Each is called with what it is made from and with a reader of the model, and returns an ``Instruction``, to be placed
before the embedded text. Their parameters are the outer ones (phi); an exemplar's embeddings are the model's own
(Eq. 9), so that the model is trained through them.

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
        mask: int64 [B, I], 0 where nothing is to be attended.
        chosen: int64 [B], the extractor's exemplars; None of an embedder.
    """

    embeddings: Tensor
    mask: Tensor
    chosen: Tensor | None = None


class Reader(NamedTuple):
    """What an instruction may ask of the model that will read it.

    Args:
        embed: Input embeddings [..., D] of token ids [...].
        encode: Last hidden states [n, L, D] of token ids [n, L] under a mask [n, L].
    """

    embed: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor, Tensor], Tensor]


class LearnableInstruction(nn.Module, ABC):
    """A module from the inputs of B instances to their instructions."""

    @abstractmethod
    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction: ...


class DirectEmbedder(LearnableInstruction):
    """A table of instructions, one per task, drawn from N(0, 1).

    Args:
        tasks: Inner tasks.
        length: Embeddings of an instruction, l.
        width: Of the model's input embeddings, D.
    """

    def __init__(self, tasks: int, length: int, width: int) -> None:
        super().__init__()
        self.table = Parameter(torch.randn(tasks, length, width))

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        return all_read(self.table[inputs.tasks])


class InstanceEmbedder(LearnableInstruction):
    """Instructions converted from the representation of each instance, without a bias.

    Args:
        texts: Represents z by W numbers.
        length: Embeddings of an instruction, l.
        width: Of the model's input embeddings, D.
    """

    def __init__(self, texts: "TextRepresentation", length: int, width: int) -> None:
        super().__init__()
        self.texts, self.shape = texts, (length, width)
        self.convert = nn.Linear(texts.width, length * width, bias=False)

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        z_BW = self.texts(inputs.pair_ids, inputs.pair_mask, model)
        return all_read(self.convert(z_BW).unflatten(-1, self.shape))


class Extractor(LearnableInstruction):
    """Chooses an exemplar by its score and hands its embeddings on.

    Args:
        soft: The exemplars' expectation under the softmax of the scores (footnote 2) instead of the best one.
        attend_padding: Leave the padding behind a chosen exemplar to be attended, as the released program does.
            Masked, it stands before the exemplar, which then reads as if it were alone.
    """

    def __init__(self, *, soft: bool, attend_padding: bool) -> None:
        super().__init__()
        self.soft, self.attend_padding = soft, attend_padding

    @abstractmethod
    def scores(self, inputs: InstructionInputs, model: Reader) -> Tensor:
        """Scores [B, N] of the exemplars, the logits of their softmax."""

    def share_of_last(self, inputs: InstructionInputs, model: Reader) -> float:
        """Share of the instances whose chosen exemplar is the last exemplar."""
        scores_BN = self.scores(inputs, model)
        return (scores_BN.argmax(dim=1) == scores_BN.shape[1] - 1).float().mean().item()

    def forward(self, inputs: InstructionInputs, model: Reader) -> Instruction:
        ids_BNC, mask_BNC = exemplars_of(inputs)
        scores_BN = self.scores(inputs, model)
        chosen_B = scores_BN.argmax(dim=1)
        weights_BN = scores_BN.softmax(dim=1) if self.soft else straight_through(scores_BN)
        embedded_BCD = torch.einsum("bn,bncd->bcd", weights_BN, model.embed(ids_BNC).to(weights_BN.dtype))
        if self.soft:
            mask_BC = mask_BNC.amax(dim=1)
        else:
            mask_BC = mask_BNC[torch.arange(len(chosen_B), device=chosen_B.device), chosen_B]
        return instruction_of_exemplar(embedded_BCD, mask_BC, chosen_B, attend_padding=self.attend_padding)


class DirectExtractor(Extractor):
    """A table of logits, one row per task, all 1: the first exemplar is chosen until another has more.

    Args:
        tasks: Inner tasks.
        exemplars: Exemplars of each, N.
        soft: See ``Extractor``.
        attend_padding: See ``Extractor``.
    """

    def __init__(self, tasks: int, exemplars: int, *, soft: bool = False, attend_padding: bool = False) -> None:
        super().__init__(soft=soft, attend_padding=attend_padding)
        self.logits = Parameter(torch.ones(tasks, 1, exemplars))  # one exemplar is chosen: [tasks, 1, N]

    def scores(self, inputs: InstructionInputs, model: Reader) -> Tensor:
        return self.logits[inputs.tasks, 0]

    def share_of_last(self, inputs: InstructionInputs, model: Reader) -> float:
        """Share of all tasks whose chosen exemplar is the last exemplar."""
        return (self.logits.argmax(dim=2) == self.logits.shape[2] - 1).float().mean().item()


class InstanceExtractor(Extractor):
    """Scores exemplars by a bilinear form of their representations and the instance's, both made by the same V.

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
        ids_BNC, mask_BNC = exemplars_of(inputs)
        h_BNW = self.texts(ids_BNC.flatten(0, 1), mask_BNC.flatten(0, 1), model).unflatten(0, ids_BNC.shape[:2])
        z_BW = self.texts(inputs.pair_ids, inputs.pair_mask, model)
        return self.match(h_BNW, z_BW.unsqueeze(1).expand_as(h_BNW).contiguous()).squeeze(-1)


class TextRepresentation(nn.Module, ABC):
    """A module from token ids [n, P] and their mask to representations [n, W]."""

    width: int

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor, model: Reader) -> Tensor: ...


class MeanEmbedding(TextRepresentation):
    """The mean of the tokens' rows in a table V of its own, apart from the model's.

    Args:
        vocabulary: Rows of V, drawn from N(0, 1).
        width: Columns of V, W.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(vocabulary, width)

    def forward(self, ids: Tensor, mask: Tensor, model: Reader) -> Tensor:
        return masked_mean(self.table(ids), mask)


class ModelStates(TextRepresentation):
    """The mean of the model's own last hidden states (footnote 1; the authors found it unstable).

    It moves with the model, and has no outer parameters. Between the two points of a finite difference an extractor
    that is built on it may choose differently.

    Args:
        width: Of the model's hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, ids: Tensor, mask: Tensor, model: Reader) -> Tensor:
        return masked_mean(model.encode(ids, mask), mask)


def straight_through(scores_BN: Tensor) -> Tensor:
    """The argmax as 0 and 1, with the gradient of the softmax: no noise, no temperature.

    >>> straight_through(torch.tensor([[0.0, 2.0, 1.0]])).round(decimals=3)
    tensor([[0., 1., 0.]])
    """
    soft_BN = scores_BN.softmax(dim=1)
    hard_BN = F.one_hot(scores_BN.argmax(dim=1), scores_BN.shape[1]).to(soft_BN.dtype)
    return hard_BN - soft_BN.detach() + soft_BN


def masked_mean(states_BPW: Tensor, mask_BP: Tensor) -> Tensor:
    """Mean over the columns that the mask leaves; 0 where it leaves none."""
    weights_BP1 = mask_BP.to(states_BPW.dtype).unsqueeze(-1)
    return (states_BPW * weights_BP1).sum(dim=1) / weights_BP1.sum(dim=1).clamp(min=1)


def align_right(states_BCD: Tensor, mask_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Padding moved from the end of each row to its beginning, so that relative positions do not count it.

    >>> states, mask = align_right(torch.tensor([[[5.0], [6.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
    >>> states.flatten().tolist(), mask.tolist()
    ([0.0, 5.0, 6.0], [[0, 1, 1]])
    """
    columns = mask_BC.shape[1]
    padding_B1 = columns - mask_BC.sum(dim=1, keepdim=True)
    places_BC = (torch.arange(columns, device=mask_BC.device) - padding_B1) % columns
    moved_BCD = states_BCD.gather(1, places_BC.unsqueeze(-1).expand_as(states_BCD))
    return moved_BCD, mask_BC.gather(1, places_BC)


def instruction_of_exemplar(
    embedded_BCD: Tensor, mask_BC: Tensor, chosen_B: Tensor, *, attend_padding: bool
) -> Instruction:
    """The exemplars that were chosen as instructions; their padding is read, or masked and put in front."""
    if attend_padding:
        return all_read(embedded_BCD)._replace(chosen=chosen_B)
    return Instruction(*align_right(embedded_BCD, mask_BC), chosen_B)


def all_read(embeddings: Tensor) -> Instruction:
    """Embeddings [B, I, D] of which every one is attended."""
    return Instruction(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device))


def exemplars_of(inputs: InstructionInputs) -> tuple[Tensor, Tensor]:
    """Tokens [B, N, C] of the exemplars, and their mask.

    Raises:
        ValueError: There are none.
    """
    if inputs.exemplar_ids is None or inputs.exemplar_mask is None:
        raise ValueError(
            "an exemplar is chosen among exemplars, and the batch has none: set the datamodule's exemplars"
        )
    return inputs.exemplar_ids, inputs.exemplar_mask
