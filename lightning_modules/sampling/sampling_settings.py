"""Settings of sampling responses, with those of Cappy's paper and of its released program."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...datamodules.scoring.instruction_truncation import Cut
from ..generation.decoding import Decoding

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
    """Settings that determine samples, besides the weights and the prompts.

    Args:
        decodings: Decodings by name; a prompt is answered with each of them.
        max_new_tokens: Largest number of tokens of a response.
        min_new_tokens: Smallest number of tokens of a response.
        max_source: Largest number of tokens of a prompt.
        cut: Part of a longer prompt that is cut: "beginning", "middle" or "end".
        stop: Texts that end a response, besides eos.
        bos: Whether the bos token begins a prompt; None for the tokenizer's own behavior.
        chat: Render each prompt as a user's message with the tokenizer's chat template, which adds bos itself.
        likelihood: Compute the log-likelihood of every response, for self-scoring.
        seed: Seed of the sampled tokens.

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
        """Number of samples of each prompt, over all decodings."""
        return sum(decoding.samples for decoding in self.decodings.values())


RELEASED = SamplingSettings(RELEASED_DECODINGS, max_new_tokens=63, min_new_tokens=3, max_source=512, cut="end")
"""Cappy's released program: its 64 positions of a response begin with the decoder's start."""
