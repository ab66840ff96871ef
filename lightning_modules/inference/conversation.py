"""A conversation with a model: its messages, streamed answers, and the best of several candidate answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..generation.decoding import Decoding, prompt_seed
from ..scoring.cross_encoder import CrossEncoder
from .answering_model import AnsweringModel
from .prompt_file import Messages


class Candidate(NamedTuple):
    """One of several answers to a message, and its score by a scorer of responses; higher is better."""

    text: str
    score: float


@dataclass
class Conversation:
    """The messages exchanged with a model; `reply` and `best_of` answer the next one and add both to them.

    Args:
        answering: The model.
        decoding: How answers are generated.
        system: System message; None for none.
        seed: Seed of sampled answers.
        messages: Messages so far, without the system message.
        dropped: Number of messages at the beginning that were dropped, because the model has no room for them.
    """

    answering: AnsweringModel
    decoding: Decoding
    system: str | None = None
    seed: int = 0
    messages: Messages = field(default_factory=list)
    dropped: int = 0

    def reply(self, text: str, write: Callable[[str], None]) -> str:
        """Generate the answer to a user's message, and pass its text to `write` while it is generated.

        Message and answer are added to the conversation. An interrupt (Ctrl-C) ends the answer, and the text so far is
        kept.

        Raises:
            ValueError: The message alone is too long; the conversation does not change.
        """
        ids, seed = self._begin(text)
        written: list[str] = []

        def keep(part: str) -> None:
            written.append(part)
            write(part)

        try:
            answer = self.answering.stream(ids, self.decoding, seed, keep)
        except KeyboardInterrupt:
            answer = "".join(written)
        self._end(answer)
        return answer

    def best_of(self, text: str, scorer: CrossEncoder) -> list[Candidate]:
        """Generate several answers to a user's message, and return the distinct ones with their scores, best first.

        The message and the best answer are added to the conversation.

        Raises:
            ValueError: The message alone is too long.
        """
        ids, seed = self._begin(text)
        [(_, texts)] = self.answering.answers([ids], self.decoding, [seed], budget=2**20)
        distinct = list(dict.fromkeys(texts))
        ranked = [Candidate(distinct[place], score) for place, score in scorer.rank(text, distinct)]
        self._end(ranked[0].text)
        return ranked

    def forget(self) -> None:
        """Remove all messages but the system message."""
        self.messages.clear()
        self.dropped = 0

    def _begin(self, text: str) -> tuple[Sequence[int], int]:
        """Return prompt and seed of an answer; the oldest messages are dropped if the model has no room for all."""
        added: Messages = [*self.messages, {"role": "user", "content": text}]
        if not self.answering.chat:
            added = added[-1:]  # without a chat template, every message is a prompt by itself
        begin = 0
        ids, reason = self._prompt(added)
        while reason and begin + 2 < len(added):
            begin += 2
            ids, reason = self._prompt(added[begin:])
        if reason:
            raise ValueError(reason)
        self.dropped += begin
        self.messages = added[begin:]
        return ids, prompt_seed(self.seed, "chat", repr(self.messages))

    def _prompt(self, messages: Messages) -> tuple[list[int], str]:
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return self.answering.prompt([*before, *messages])

    def _end(self, answer: str) -> None:
        self.messages.append({"role": "assistant", "content": answer})
