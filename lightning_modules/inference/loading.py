"""Loading of a model that answers prompts, and its decoding."""

from collections.abc import Sequence

from ..generation.decoding import Decoding
from ..sampling.response_sampler import load_generator
from .answering_model import AnsweringModel


def answering_model(
    folder: str,
    *,
    chat: bool | None = None,
    max_new_tokens: int = 256,
    stop: Sequence[str] = (),
    dtype: str = "float32",
    device: str | None = None,
) -> AnsweringModel:
    """Load a language model and its tokenizer, and return them with the settings of their answers.

    Args:
        folder: Hub name, or folder of a model or a prefix.
        chat: Whether prompts are rendered with the model's chat template; None to use one if the model has it.
        max_new_tokens: Largest number of tokens of an answer.
        stop: Texts that end an answer.
        dtype: Type of the parameters, e.g. "bfloat16".
        device: Device of the model; None for this process's GPU, or the CPU without one.

    Raises:
        ValueError: There is no such model, it has no chat template although `chat` is true, or no room for a prompt.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    model, tokenizer = load_generator(folder, dtype=dtype, device=device)
    if chat and not tokenizer.chat_template:
        raise ValueError(f"the tokenizer of {folder!r} has no chat template: leave chat out for plain prompts")
    chats = bool(tokenizer.chat_template) if chat is None else chat
    answering = AnsweringModel(model, tokenizer, chats, max_new_tokens, tuple(stop))
    if answering.room < 1:
        raise ValueError(
            f"max_new_tokens = {max_new_tokens} leaves no room for a prompt among the "
            f"{answering.room + max_new_tokens} positions of the model: lower it"
        )
    return answering


def decoding_of(temperature: float, top_p: float = 1.0, samples: int = 1) -> Decoding:
    """Return sampling at a temperature, or greedy decoding of one answer for a temperature of 0.

    >>> decoding_of(0).sampling, decoding_of(0.7, samples=4).samples
    (False, 4)
    """
    if temperature == 0:
        return Decoding()
    return Decoding(sampling=True, samples=samples, temperature=temperature, top_p=top_p)
