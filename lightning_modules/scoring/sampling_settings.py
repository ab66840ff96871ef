"""Settings of sampling from a language model, and those of Cappy's paper and of its released program."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...datamodules.scoring.instruction_cuts import Cut
from ..evaluation.decoding import Decoding

CAPPY_DECODINGS: dict[str, Decoding] = {
    "beam": Decoding(beams=4),
    "sampling": Decoding(sampling=True, samples=4),
    "temperature": Decoding(sampling=True, samples=4, temperature=0.9),
    "top_k": Decoding(sampling=True, samples=4, top_k=40),
    "nucleus": Decoding(sampling=True, samples=4, top_p=0.95),
}
"""The 17 responses of Cappy (arXiv 2311.06720, section 4.2), in the order of its released program."""

RELEASED_DECODINGS: dict[str, Decoding] = {
    "beam": Decoding(beams=4),
    "sampling": Decoding(sampling=True, samples=4, top_k=50),
    "temperature": Decoding(sampling=True, samples=4, temperature=0.9, top_k=50),
    "top_k": Decoding(sampling=True, samples=4, top_k=40),
    "nucleus": Decoding(sampling=True, samples=4, top_k=50, top_p=0.95),
}
"""The decodings of that program in effect: its library's default top_k = 50 applies everywhere."""


@dataclass(frozen=True)
class SamplingSettings:
    """Settings that decide samples, beside the weights and the prompts.

    Args:
        decodings: Decodings by name.
        max_new_tokens: Tokens of the longest response.
        min_new_tokens: Tokens of the shortest response.
        max_source: Tokens of the longest prompt.
        cut: The part of a too long prompt that is cut.
        stop: Texts that end a response, beside eos.
        bos: Whether the bos token begins a prompt; None for what the tokenizer adds by itself.
        chat: Render prompts as a user's message by the tokenizer's chat template, which adds bos itself.
        likelihood: Compute the log-likelihood of every response.
        seed: Seed of sampling.

    Raises:
        ValueError: The settings contradict the chat template.
    """

    decodings: Mapping[str, Decoding] = field(default_factory=lambda: CAPPY_DECODINGS)
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    max_source: int = 1024
    cut: Cut = "middle"
    stop: tuple[str, ...] = ()
    bos: bool | None = None
    chat: bool = False
    likelihood: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.chat and self.cut == "end":
            raise ValueError("the end of a chat prompt opens the model's turn and cannot be cut: set cut to middle")
        if self.chat and self.bos:
            raise ValueError("a chat template adds bos itself: leave bos out with chat")

    @property
    def samples(self) -> int:
        """Number of samples of each prompt."""
        return sum(decoding.samples for decoding in self.decodings.values())


RELEASED = SamplingSettings(RELEASED_DECODINGS, max_new_tokens=63, min_new_tokens=3, max_source=512, cut="end")
"""Cappy's released program: its 64 positions of a response begin with the decoder's start."""
