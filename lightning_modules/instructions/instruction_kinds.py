"""Settings of the learnable instruction, and the modules that they select."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from transformers import AutoModel, PreTrainedModel

from ...datamodules.pretrained_weights import load_pretrained
from ..named_classes import imported_to_call
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
    """How texts become vectors, for the kinds instance_embedder and instance_extractor, which read each instance.

    Args:
        by: own: mean of the tokens' rows in a separate, trained table V of embeddings. model: mean of the language
            model's last hidden states (arXiv 2306.10098, footnote 1).
        width: Width of the vectors, i.e. columns of V; d' in the paper. Used with own.
        pretrained: Hub name or folder of a model with the same tokenizer, whose token embeddings initialize V. None
            initializes V from N(0, 1).
    """

    by: Literal["own", "model"] = "own"
    width: int = 512
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"representation.width must be at least 1, got {self.width}")


@dataclass(frozen=True)
class InstructionSettings:
    """Settings of the learnable instruction of differentiable instruction optimization (arXiv 2306.10098).

    Args:
        kind: direct_embedder: free embeddings for each task. instance_embedder: embeddings computed from each instance.
            direct_extractor: a learned choice among N exemplars for each task. instance_extractor: a choice computed
            from each instance. first_exemplar: always the first exemplar, not learned. none: the datamodule's text
            only. Or the import path of a subclass of LearnableInstruction, which is called with an InstructionShape.
        options: Further keyword arguments of a class given by its import path.
        length: Number of embeddings in an embedder's instruction, l. On the command line it is set from the
            datamodule's `instructions.length`; in Python give both the same.
        exemplars: Number of exemplars an extractor chooses among, N. On the command line it is set from the
            datamodule's `instructions.exemplars`.
        demonstrations: Number of exemplars that an extractor chooses as the demonstrations of a few-shot prompt, k; 0
            for one exemplar before the text, as in the paper. On the command line it is set from the datamodule's
            `instructions.demonstrations`.
        representation: How instance_embedder and instance_extractor turn texts into vectors.
        soft: An extractor returns the mean of all exemplars' embeddings, weighted by the softmax of their scores,
            instead of the exemplar with the highest score (arXiv 2306.10098, footnote 2).
        exemplar_padding: Whether padding behind a chosen exemplar is masked or attended. None takes the preset's
            choice.
        start: Initial values: random, stored, or the embeddings of human-written definitions.
    """

    kind: Kind | str = "direct_embedder"
    options: Mapping[str, Any] = field(default_factory=dict)
    length: int = 64
    exemplars: int = 0
    demonstrations: int = 0
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
        if self.demonstrations and self.kind in ("direct_embedder", "instance_embedder", "none"):
            raise ValueError(
                "demonstrations are exemplars: set instruction.kind to direct_extractor, instance_extractor or "
                f"first_exemplar, or the datamodule's instructions.demonstrations to 0, got {self.kind}"
            )
        if self.demonstrations and self.attend_padding:
            raise ValueError(
                "demonstrations follow each other without padding: set instruction.exemplar_padding to masked"
            )
        if self.length < 1 or self.exemplars < 0:
            raise ValueError(
                f"instruction.length must be at least 1 and instruction.exemplars at least 0, got {self.length} and "
                f"{self.exemplars}"
            )

    @property
    def learns(self) -> bool:
        """Whether the instruction has parameters that are trained."""
        return self.kind not in ("none", "first_exemplar") and not self.start.frozen

    @property
    def attend_padding(self) -> bool:
        """Whether padding behind a chosen exemplar is attended."""
        return self.exemplar_padding == "attended"


def build_instruction(
    settings: InstructionSettings, model: PreTrainedModel, *, tasks: int, vocabulary: int
) -> LearnableInstruction:
    """Return the learnable instruction that the settings describe, for the width of the model's input embeddings.

    Its parameters are float32, or float64 if the model's are.

    Args:
        settings: Kind and sizes of the instruction.
        model: The language model that will read it.
        tasks: Number of inner tasks: rows of a direct parameterization.
        vocabulary: Number of tokens of the tokenizer: rows of V.

    Raises:
        ValueError: An extractor without exemplars.
    """
    precise = torch.promote_types(torch.float32, model.dtype)
    return _built(settings, model, tasks, vocabulary).to(precise)


def _built(settings: InstructionSettings, model: PreTrainedModel, tasks: int, vocabulary: int) -> LearnableInstruction:
    width = int(input_embeddings(model).weight.shape[1])  # type: ignore[index]
    if settings.kind not in get_args(Kind):
        shape = InstructionShape(tasks, settings.length, settings.exemplars, width, vocabulary)
        kind = imported_to_call(settings.kind, "instruction.kind", "shape", options=settings.options)
        built = kind(shape, **settings.options)
        if not isinstance(built, LearnableInstruction):
            raise ValueError(f"instruction.kind {settings.kind} is no LearnableInstruction, got {type(built).__name__}")
        return built
    if settings.kind == "none":
        return NoInstruction()
    if settings.kind.endswith(("extractor", "exemplar")) and settings.exemplars < 1:
        raise ValueError(f"an extractor needs exemplars to choose among: set exemplars, got {settings.exemplars}")
    number = max(settings.demonstrations, 1)
    if settings.kind == "first_exemplar":
        return FirstExemplar(number=number, attend_padding=settings.attend_padding)
    if settings.kind == "direct_embedder":
        return DirectEmbedder(tasks, settings.length, width)
    choosing: dict[str, Any] = {"number": number, "soft": settings.soft, "attend_padding": settings.attend_padding}
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
    """Return whether a weight is not the table of token embeddings."""
    return model.get_parameter_or_buffer(name) is not model.get_input_embeddings().weight
