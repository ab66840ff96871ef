"""Builds the learnable instruction of a name, and the representation of texts that it uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from transformers import AutoModel, PreTrainedModel

from ...datamodules.pretrained_weights import load_pretrained
from ..named_classes import imported
from .fixed_instructions import FirstExemplar, NoInstruction
from .instructed_loss import input_embeddings
from .instruction_start import InstructionStart
from .learnable_instructions import (
    DirectEmbedder,
    DirectExtractor,
    InstanceEmbedder,
    InstanceExtractor,
    InstructionShape,
    LearnableInstruction,
    MeanEmbedding,
    ModelStates,
    TextRepresentation,
)

Kind = Literal[
    "direct_embedder", "instance_embedder", "direct_extractor", "instance_extractor", "first_exemplar", "none"
]


@dataclass(frozen=True)
class Representation:
    """Representation of texts for the instance parameterizations.

    Args:
        by: own (a table V of embeddings) or model (the mean of the language model's last hidden states, footnote 1 of
            the paper).
        width: Columns of V, d' in the paper.
        pretrained: Hub name or folder of a model with the same tokenizer whose token embeddings initialize V; N(0, 1)
            if left out.
    """

    by: Literal["own", "model"] = "own"
    width: int = 512
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"representation.width must be at least 1, got {self.width}")


@dataclass(frozen=True)
class InstructionSettings:
    """The learnable instruction.

    Args:
        kind: Instructions as embeddings (embedder) or the choice of an exemplar (extractor), for each task (direct) or
            computed from each instance. Not learned, for comparison: the first exemplar (first_exemplar), or only the
            text (none). Also the import path of another LearnableInstruction, called with an InstructionShape.
        options: Further keyword arguments of a class that is given by its import path.
        length: Embeddings of an embedder's instruction, l; linked to the datamodule's.
        exemplars: Exemplars an extractor chooses among, N; linked to the datamodule's.
        representation: Representation of texts for an instance parameterization.
        soft: Read the expectation of the exemplars instead of the chosen one (footnote 2 of the paper).
        exemplar_padding: Whether padding behind a chosen exemplar is masked, instead of the preset's choice.
        start: The values that it starts from.
    """

    kind: Kind | str = "direct_embedder"
    options: Mapping[str, Any] = field(default_factory=dict)
    length: int = 64
    exemplars: int = 0
    representation: Representation = Representation()
    soft: bool = False
    exemplar_padding: Literal["masked", "attended"] | None = None
    start: InstructionStart = InstructionStart()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) and "." not in self.kind:
            raise ValueError(
                f"instruction.kind must be one of {list(get_args(Kind))}, or the import path of a class, got "
                f"{self.kind!r}"
            )
        if self.options and self.kind in get_args(Kind):
            raise ValueError(f"instruction.options are for a class by its import path, and kind is {self.kind}")
        if self.length < 1 or self.exemplars < 0:
            raise ValueError(
                f"instruction.length must be at least 1 and instruction.exemplars at least 0, got {self.length} and "
                f"{self.exemplars}"
            )

    @property
    def learns(self) -> bool:
        """Whether there are parameters to train."""
        return self.kind not in ("none", "first_exemplar") and not self.start.frozen

    @property
    def attend_padding(self) -> bool:
        """Whether padding behind a chosen exemplar is attended."""
        return self.exemplar_padding == "attended"


def build_instruction(
    settings: InstructionSettings, model: PreTrainedModel, *, tasks: int, vocabulary: int
) -> LearnableInstruction:
    """The learnable instruction of these settings, as wide as the model's input embeddings.

    Its parameters are float32, or float64 if the model's are.

    Args:
        settings: Kind and sizes.
        model: The language model that will read it.
        tasks: Number of inner tasks, the rows of a direct parameterization.
        vocabulary: Tokens of the tokenizer, the rows of V.

    Raises:
        ValueError: An extractor without exemplars.
    """
    precise = torch.promote_types(torch.float32, model.dtype)
    return _built(settings, model, tasks, vocabulary).to(precise)


def _built(settings: InstructionSettings, model: PreTrainedModel, tasks: int, vocabulary: int) -> LearnableInstruction:
    width = int(input_embeddings(model).weight.shape[1])  # type: ignore[index]
    if settings.kind not in get_args(Kind):
        shape = InstructionShape(tasks, settings.length, settings.exemplars, width, vocabulary)
        built = imported(settings.kind, "instruction.kind")(shape, **settings.options)
        if not isinstance(built, LearnableInstruction):
            raise ValueError(f"instruction.kind {settings.kind} is no LearnableInstruction, got {type(built).__name__}")
        return built
    if settings.kind == "none":
        return NoInstruction()
    if settings.kind.endswith(("extractor", "exemplar")) and settings.exemplars < 1:
        raise ValueError(f"an extractor needs exemplars to choose among: set exemplars, got {settings.exemplars}")
    if settings.kind == "first_exemplar":
        return FirstExemplar(attend_padding=settings.attend_padding)
    if settings.kind == "direct_embedder":
        return DirectEmbedder(tasks, settings.length, width)
    choosing = {"soft": settings.soft, "attend_padding": settings.attend_padding}
    if settings.kind == "direct_extractor":
        return DirectExtractor(tasks, settings.exemplars, **choosing)
    texts = _text_representation(settings.representation, model, vocabulary)
    if settings.kind == "instance_embedder":
        return InstanceEmbedder(texts, settings.length, width)
    return InstanceExtractor(texts, **choosing)


def _text_representation(representation: Representation, model: PreTrainedModel, vocabulary: int) -> TextRepresentation:
    if representation.by == "model":
        return ModelStates(model.config.hidden_size)
    if representation.pretrained is None:
        return MeanEmbedding(vocabulary, representation.width)
    published: Any = load_pretrained(AutoModel, representation.pretrained, optional=_is_no_input_embedding)
    table = published.get_input_embeddings().weight
    texts = MeanEmbedding(*table.shape)
    with torch.no_grad():
        texts.table.weight.copy_(table)
    return texts


def _is_no_input_embedding(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight is another one than the table of token embeddings."""
    return model.get_parameter_or_buffer(name) is not model.get_input_embeddings().weight
