"""How a language model reads a prompt and its answer: as plain text, or in the chat template of its tokenizer."""

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ...datamodules.rendering.chat import chat_end, chat_joint


class AnswerForm(NamedTuple):
    """The tokens and text that join a prompt and its answer.

    Args:
        bos: Whether bos begins a prompt; None for the tokenizer's own behavior.
        joint: Text between a prompt and its answer.
        end: Token id that ends the answer; None for the tokenizer's eos.
    """

    bos: bool | None
    joint: str
    end: int | None


def answer_form(tokenizer: PreTrainedTokenizerBase, *, chat: bool, bos: bool | None = None) -> AnswerForm:
    """Return the form of prompts and answers; a chat template writes bos, the text before the answer, and its end.

    Args:
        tokenizer: Tokenizer of the model.
        chat: Whether prompts are rendered by the chat template (``chat_prompt``).
        bos: Whether bos begins a plain prompt; None for the tokenizer's own behavior.

    Raises:
        ValueError: The tokenizer has no chat template, and `chat` is true.
    """
    if chat:
        return AnswerForm(False, chat_joint(tokenizer), chat_end(tokenizer))
    return AnswerForm(bos, " ", None)
