"""A loaded language model with its prompt format: a chat template, or plain prompts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.rendering.chat import chat_prompt
from ...datamodules.rendering.tokenization import tokenize_sources
from ..generation.decoding import Decoding, DrawTokens, before_end, cut_at_stop, texts_of_tokens
from ..generation.generate import generate
from ..generation.generation_settings import end_tokens
from ..generation.prompt_cache import PromptCache
from ..prefixes import virtual_tokens
from .prompt_file import Messages, turns_from


@dataclass(frozen=True)
class AnsweringModel:
    """A language model with its tokenizer and prompt format, which generates answers to prompts and conversations.

    Args:
        model: Causal or encoder-decoder model, in evaluation mode.
        tokenizer: Tokenizer of the model.
        chat: Whether conversations are rendered with the tokenizer's chat template. If not, the prompt is the last
            message, preceded by the system message if there is one.
        max_new_tokens: Largest number of tokens of an answer.
        stop: Texts that end an answer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: bool
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()

    @property
    def room(self) -> int:
        """Largest number of tokens of a prompt; 0 or less if the model's positions are all needed for the answer."""
        config, pair = self.model.config, bool(self.model.config.is_encoder_decoder)
        positions = getattr(config, "max_position_embeddings", None) or 2**20
        return positions if pair else positions - self.max_new_tokens - virtual_tokens(self.model)

    @property
    def ends(self) -> list[int]:
        """Token ids that end an answer."""
        return end_tokens(self.model, self.tokenizer)

    def text(self, messages: Messages) -> str:
        """Return the prompt of a conversation as text."""
        if self.chat:
            return chat_prompt(self.tokenizer, turns_from(messages))
        before = [messages[0]["content"]] if messages[0]["role"] == "system" and len(messages) > 1 else []
        return "\n".join([*before, messages[-1]["content"]])

    def prompt(self, messages: Messages) -> tuple[list[int], str]:
        """Return the token ids of a conversation's prompt, and the reason why the model cannot answer it, or "".

        A reason is, for example, that the prompt is longer than `room`.
        """
        turns = sum(message["role"] != "system" for message in messages)
        if not self.chat and turns > 1:
            return [], "the model has no chat template, and would read the last of several messages alone"
        try:
            text = self.text(messages)
        except ValueError as error:
            return [], str(error)
        pair = bool(self.model.config.is_encoder_decoder)
        form = {"bos": False, "joint": ""} if self.chat else {"bos": None, "joint": " "}
        [ids] = tokenize_sources(self.tokenizer, [text], pair=pair, **form)
        if len(ids) > self.room:
            return ids, f"the prompt is longer than the {self.room:,} tokens beside {self.max_new_tokens:,} new ones"
        return (ids, "") if ids else (ids, "the tokenizer makes no token of the prompt")

    def answers(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, seeds: Sequence[int], budget: int
    ) -> Iterator[tuple[int, list[str]]]:
        """Yield (index of the prompt, its answers), as prompts end.

        Args:
            prompts: Token ids of each prompt.
            decoding: How answers are generated; ``decoding.samples`` for each prompt.
            seeds: Seed of each prompt.
            budget: Largest number of tokens in a batch, over all sequences and with their answers.
        """
        generated = generate(
            self.model,
            self.tokenizer,
            prompts,
            [decoding],
            seeds=seeds,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            ends=self.ends,
            budget=budget,
        )
        return ((place, texts) for place, [texts] in generated)

    @torch.no_grad()
    def stream(self, prompt: Sequence[int], decoding: Decoding, seed: int, write: Callable[[str], None]) -> str:
        """Return the answer to a prompt, and write its text while it is generated.

        Args:
            prompt: Token ids of the prompt.
            decoding: Greedy decoding, or one sample.
            seed: Seed of the sample.
            write: Called with each new piece of text.
        """
        ids = torch.tensor([list(prompt)], device=self.model.device)
        cache = PromptCache(self.model, ids, torch.ones_like(ids), share=False)
        draw = DrawTokens([decoding], [seed], self.max_new_tokens, cache.width)
        streamed = StreamedText(self, cache.width, write)
        generated = cache.generate(
            1,
            processors=[draw],
            stop=streamed,
            max_new_tokens=self.max_new_tokens,
            ends=self.ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return streamed.close(generated[0].tolist())


class StreamedText:
    """Stopping criterion that writes an answer's text while it grows, and ends it at a stop text.

    Text is held back while it may be the beginning of a stop text, or of a character that consists of several tokens.

    Args:
        answering: The model, with its stop texts.
        width: Number of columns before the first generated token.
        write: Called with each new piece of text.
    """

    def __init__(self, answering: AnsweringModel, width: int, write: Callable[[str], None]) -> None:
        self.answering, self.width, self.write = answering, width, write
        self.written = ""
        self.held = max((len(text) for text in answering.stop), default=0)

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        whole = self._decoded(input_ids[0, self.width :].tolist())
        text = cut_at_stop(whole, self.answering.stop)
        ended = text != whole
        # The beginning of a character of several tokens is held back, and white space that may be the last.
        self._write_upto((text if ended else text[: len(text) - self.held]).rstrip("�").rstrip())
        return torch.tensor([ended], device=input_ids.device)

    def close(self, ids: Sequence[int]) -> str:
        """Write the text that was held back, and return the whole answer."""
        text = cut_at_stop(self._decoded(ids), self.answering.stop).rstrip()
        self._write_upto(text)
        return text

    def _decoded(self, ids: Sequence[int]) -> str:
        kept = before_end(ids, self.answering.ends)
        return texts_of_tokens(self.answering.tokenizer, [kept])[0].lstrip()

    def _write_upto(self, text: str) -> None:
        if text.startswith(self.written) and len(text) > len(self.written):
            self.write(text[len(self.written) :])
            self.written = text
