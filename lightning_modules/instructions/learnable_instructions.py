"""Learnable instructions: modules that return input embeddings to place before the text of a language model.

An *embedder* returns l free embeddings; an *extractor* chooses one of N exemplars. Both have two parameterizations.
*Direct*: a table with one row per task. *Instance*: numbers computed from z, the text of the instance (its input and
output, Eq. 4)::

                   direct                              instance
    embedder       table[task]               [l, D]    W mean(V[z])                        [l, D]
    extractor      logits[task]              [N]       mean(V[exemplar]) B mean(V[z])      [N]

An extractor chooses the exemplar of the highest logit; its gradient is that of the softmax (straight-through). Each
module is called with the batch's ``InstructionInputs`` and the ``ModelFunctions`` of the language model, and returns an
``Instruction``. Its parameters are the outer parameters (phi). The embeddings of an exemplar are the language model's
own (Eq. 9), so that the model is trained through them.

Source: Differentiable Instruction Optimization (arXiv 2306.10098), section 3. Sizes and initial values are those of the
program released with it.
"""

# B instances, I columns of an instruction (l of an embedder, C tokens of an exemplar), N exemplars, P tokens of z,
# D width of the model's input embeddings, W width of the texts' representations (d' in the paper)

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ...datamodules.bilevel.exemplars import InstructionInputs
from .exemplar_extraction import choice_weights, choose_in_turn, chosen_of, require_exemplars


class Instruction(NamedTuple):
    """The instructions of B instances, as input embeddings of the language model.

    Args:
        embeddings: [B, I, D], I columns of width D.
        mask: int64 [B, I], 0 in columns that are not attended.
        chosen: int64 [B, K], indices of the exemplars that an extractor chose, -1 where there is none; None for an
            embedder.
    """

    embeddings: Tensor
    mask: Tensor
    chosen: Tensor | None = None


class ModelFunctions(NamedTuple):
    """Functions of the language model that a learnable instruction may call.

    Args:
        embed: Returns the input embeddings [..., D] of token ids [...].
        encode: Returns the last hidden states [n, L, D] of token ids [n, L] under a mask [n, L].
    """

    embed: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor, Tensor], Tensor]


class InstructionShape(NamedTuple):
    """Sizes that a user's own class of learnable instructions is built with.

    Args:
        tasks: Number of inner tasks, T; ``inputs.tasks`` are indices below it.
        length: Number of embeddings in an instruction, l.
        exemplars: Number of exemplars in the inputs, N; 0 if there are none.
        width: Width of the model's input embeddings, D.
        vocabulary: Number of tokens of the tokenizer.
    """

    tasks: int
    length: int
    exemplars: int
    width: int
    vocabulary: int


class LearnableInstruction(nn.Module, ABC):
    """Base class of learnable instructions: ``forward`` maps the inputs of B instances to an ``Instruction``."""

    task_parameters: tuple[str, ...] = ()
    """Names of the parameters whose first dimension are the inner tasks."""

    @abstractmethod
    def forward(self, inputs: InstructionInputs, model: ModelFunctions) -> Instruction: ...


class DirectEmbedder(LearnableInstruction):
    """A table of embeddings with one instruction per task, initialized from N(0, 1).

    Args:
        tasks: Number of inner tasks.
        length: Number of embeddings in an instruction, l.
        width: Width of the model's input embeddings, D.
    """

    task_parameters = ("table",)

    def __init__(self, tasks: int, length: int, width: int) -> None:
        super().__init__()
        self.table = Parameter(torch.randn(tasks, length, width))

    def forward(self, inputs: InstructionInputs, model: ModelFunctions) -> Instruction:
        return fully_attended(self.table[inputs.tasks])


class InstanceEmbedder(LearnableInstruction):
    """Computes an instruction from each instance's text: a linear function, without bias, of the text's vector.

    Args:
        texts: Turns z, the text of the instance, into a vector of width W.
        length: Number of embeddings in an instruction, l.
        width: Width of the model's input embeddings, D.
    """

    def __init__(self, texts: "TextRepresentation", length: int, width: int) -> None:
        super().__init__()
        self.texts, self.shape = texts, (length, width)
        self.convert = nn.Linear(texts.width, length * width, bias=False)

    def forward(self, inputs: InstructionInputs, model: ModelFunctions) -> Instruction:
        z_BW = self.texts(inputs.pair_ids, inputs.pair_mask, model)
        return fully_attended(self.convert(z_BW).unflatten(-1, self.shape))


class Extractor(LearnableInstruction):
    """Base class of extractors: chooses the exemplars with the highest scores and returns their embeddings in a row.

    The paper's extractor chooses one. Of several, each is chosen among the exemplars of other texts than those before
    it; its gradient is that of the softmax over these.

    Args:
        number: Number of exemplars that are chosen, K.
        soft: Return the mean of the exemplars' embeddings, weighted by the softmax of the scores, instead of one
            exemplar's (arXiv 2306.10098, footnote 2).
        attend_padding: Whether padding behind a chosen exemplar is attended, as in the released program. If not,
            padding is masked and moved before the exemplar, so that the text follows the exemplar directly.
    """

    def __init__(self, *, number: int, soft: bool, attend_padding: bool) -> None:
        super().__init__()
        self.number, self.soft, self.attend_padding = number, soft, attend_padding

    @abstractmethod
    def scores(self, inputs: InstructionInputs, model: ModelFunctions) -> Tensor:
        """Return the scores [B, N] of the exemplars: the logits of the softmax."""

    def share_of_last(self, inputs: InstructionInputs, model: ModelFunctions) -> float:
        """Return the share of the instances whose first choice is the last exemplar, a number in [0, 1] to log."""
        scores_BN = self.scores(inputs, model)
        first_B = choose_in_turn(scores_BN, inputs, 1)[0][:, 0]
        return (first_B == scores_BN.shape[1] - 1).float().mean().item()

    def mean_number(self, inputs: InstructionInputs, model: ModelFunctions) -> float:
        """Return the mean number of chosen exemplars: below `number` where they do not fit or are missing."""
        chosen_BK, _ = choose_in_turn(self.scores(inputs, model), inputs, self.number)
        return (chosen_BK >= 0).sum(dim=1).double().mean().item()

    def forward(self, inputs: InstructionInputs, model: ModelFunctions) -> Instruction:
        ids_BNC, mask_BNC = require_exemplars(inputs)
        scores_BN = self.scores(inputs, model)
        chosen_BK, open_BKN = choose_in_turn(scores_BN.detach(), inputs, self.number)
        weights_BKN = choice_weights(scores_BN, open_BKN, soft=self.soft)
        embedded_BKCD = torch.einsum("bkn,bncd->bkcd", weights_BKN, model.embed(ids_BNC).to(weights_BKN.dtype))
        mask_BKC = mask_BNC.amax(dim=1, keepdim=True) if self.soft else chosen_of(mask_BNC, chosen_BK)
        mask_BKC = mask_BKC * (chosen_BK >= 0).unsqueeze(-1)
        return exemplar_instruction(embedded_BKCD, mask_BKC, chosen_BK, attend_padding=self.attend_padding)


class DirectExtractor(Extractor):
    """Chooses exemplars for each task by a learned table of logits, one row per task and one column per exemplar.

    The logits are initialized to 1, so that the first exemplar is chosen at first.

    Args:
        tasks: Number of inner tasks.
        exemplars: Number of exemplars of each task, N.
        number: Number of exemplars that are chosen, K.
        soft: Return the mean of the exemplars' embeddings, weighted by the softmax of the logits, instead of one
            exemplar's.
        attend_padding: Whether padding behind a chosen exemplar is attended. If not, it is masked and moved before the
            exemplar.
    """

    task_parameters = ("logits",)

    def __init__(
        self, tasks: int, exemplars: int, *, number: int = 1, soft: bool = False, attend_padding: bool = False
    ) -> None:
        super().__init__(number=number, soft=soft, attend_padding=attend_padding)
        self.logits = Parameter(torch.ones(tasks, 1, exemplars))  # the released program's shape

    def scores(self, inputs: InstructionInputs, model: ModelFunctions) -> Tensor:
        return self.logits[inputs.tasks, 0]

    def share_of_last(self, inputs: InstructionInputs, model: ModelFunctions) -> float:
        """Return the share of all inner tasks whose highest logit is the last exemplar's, a number in [0, 1] to log."""
        return (self.logits.argmax(dim=2) == self.logits.shape[2] - 1).float().mean().item()


class InstanceExtractor(Extractor):
    """Chooses exemplars for each instance, by a learned bilinear form of the exemplar's vector and the instance's.

    Args:
        texts: Turns exemplars, and the text of an instance, into vectors of width W.
        number: Number of exemplars that are chosen, K.
        soft: Return the mean of the exemplars' embeddings, weighted by the softmax of the scores, instead of one
            exemplar's.
        attend_padding: Whether padding behind a chosen exemplar is attended. If not, it is masked and moved before the
            exemplar.
    """

    def __init__(
        self, texts: "TextRepresentation", *, number: int = 1, soft: bool = False, attend_padding: bool = False
    ) -> None:
        super().__init__(number=number, soft=soft, attend_padding=attend_padding)
        self.texts = texts
        self.match = nn.Bilinear(texts.width, texts.width, 1, bias=False)

    def scores(self, inputs: InstructionInputs, model: ModelFunctions) -> Tensor:
        ids_BNC, mask_BNC = require_exemplars(inputs)
        h_BNW = self.texts(ids_BNC.flatten(0, 1), mask_BNC.flatten(0, 1), model).unflatten(0, ids_BNC.shape[:2])
        z_BW = self.texts(inputs.pair_ids, inputs.pair_mask, model)
        return self.match(h_BNW, z_BW.unsqueeze(1).expand_as(h_BNW).contiguous()).squeeze(-1)


class TextRepresentation(nn.Module, ABC):
    """Base class: maps token ids [n, P] and their mask to one vector per text, [n, W]."""

    width: int

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor, model: ModelFunctions) -> Tensor: ...


class MeanEmbedding(TextRepresentation):
    """Represents a text by the mean of its tokens' rows in a learned table V, which is not the model's own table.

    Args:
        vocabulary: Number of rows of V, which are initialized from N(0, 1).
        width: Columns of V, W.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(vocabulary, width)

    def forward(self, ids: Tensor, mask: Tensor, model: ModelFunctions) -> Tensor:
        return masked_mean(self.table(ids), mask)


class ModelStates(TextRepresentation):
    """Represents a text by the mean of the language model's last hidden states.

    The paper found it unstable (arXiv 2306.10098, footnote 1). It has no parameters and depends on the model's: an
    extractor may choose different exemplars at the two points of a finite difference.

    Args:
        width: Width of the model's hidden states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, ids: Tensor, mask: Tensor, model: ModelFunctions) -> Tensor:
        return masked_mean(model.encode(ids, mask), mask)


def masked_mean(states_BPW: Tensor, mask_BP: Tensor) -> Tensor:
    """Return the mean [B, W] over columns with mask 1; 0 for rows without any."""
    weights_BP1 = mask_BP.to(states_BPW.dtype).unsqueeze(-1)
    return (states_BPW * weights_BP1).sum(dim=1) / weights_BP1.sum(dim=1).clamp(min=1)


def align_right(states_BCD: Tensor, mask_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Return states and mask with the masked columns of each row moved to its beginning.

    >>> states, mask = align_right(torch.tensor([[[5.0], [6.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
    >>> states.flatten().tolist(), mask.tolist()
    ([0.0, 5.0, 6.0], [[0, 1, 1]])
    """
    columns_BC = mask_BC.argsort(dim=1, stable=True)
    moved_BCD = states_BCD.gather(1, columns_BC.unsqueeze(-1).expand_as(states_BCD))
    return moved_BCD, mask_BC.gather(1, columns_BC)


def exemplar_instruction(
    embedded_BKCD: Tensor, mask_BKC: Tensor, chosen_BK: Tensor, *, attend_padding: bool
) -> Instruction:
    """Return instructions that consist of the embeddings of K chosen exemplars, one behind the other.

    Args:
        embedded_BKCD: Embeddings of the chosen exemplars.
        mask_BKC: 0 at their padding.
        chosen_BK: Their indices, -1 where there is none.
        attend_padding: Whether padding is attended. If not, it is masked and moved to the instruction's beginning.
    """
    embedded_BID, mask_BI = embedded_BKCD.flatten(1, 2), mask_BKC.flatten(1, 2)
    if attend_padding:
        return fully_attended(embedded_BID)._replace(chosen=chosen_BK)
    return Instruction(*align_right(embedded_BID, mask_BI), chosen_BK)


def behind_head(instruction: Instruction, inputs: InstructionInputs, model: ModelFunctions) -> Instruction:
    """Return an instruction with the tokens before its demonstrations (bos and the definition) in front.

    Args:
        instruction: Embeddings of the chosen demonstrations.
        inputs: Inputs of the batch, with these tokens; without them, the instruction is returned unchanged.
        model: Functions of the language model, which embed the tokens.
    """
    if inputs.head_ids is None or inputs.head_mask is None:
        return instruction
    head_BHD = model.embed(inputs.head_ids).to(instruction.embeddings.dtype)
    embedded_BID = torch.cat([head_BHD, instruction.embeddings], dim=1)
    mask_BI = torch.cat([inputs.head_mask, instruction.mask], dim=1)
    return Instruction(*align_right(embedded_BID, mask_BI), instruction.chosen)


def fully_attended(embeddings: Tensor) -> Instruction:
    """Return an instruction of embeddings [B, I, D] without masked columns."""
    return Instruction(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device))
