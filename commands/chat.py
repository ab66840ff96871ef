"""Chat with a model in the terminal.

MODEL is a Hugging Face folder, a hub name, the folder of a run or a checkpoint. Answers appear as they are generated.
A model without a chat template, or with --chat false, reads every message by itself. With --scorer, several candidates
are drawn and printed with their scores, and the best one is the answer. /reset begins a new conversation; /quit or the
end of the input ends the program.

Example:
    crosstask chat runs/quickstart
    crosstask chat runs/mine --system "Answer briefly." --scorer btan2/cappy-large --candidates 8
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..datamodules.visible_text import visible
from .shared.function_command import run_function

if TYPE_CHECKING:  # torch and transformers, which the help does not need
    from ..lightning_modules.inference.conversation import Conversation
    from ..lightning_modules.scoring.cross_encoder import CrossEncoder


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(chat, words)


def chat(
    model: Sequence[str],
    system: str | None = None,
    chat: bool | None = None,
    scorer: str | None = None,
    candidates: int = 4,
    max_length: int | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.95,
    stop: Sequence[str] = (),
    seed: int = 0,
    dtype: str = "float32",
    device: str | None = None,
) -> None:
    """Answer messages from the terminal, or the lines of a pipe.

    Args:
        model: Folder of a model, of a run or of a checkpoint, or a hub name.
        system: System message of the conversation; null for none.
        chat: Whether the tokenizer's chat template renders the messages; null uses the template if there is one.
        scorer: Hub name or folder of a trained scorer, which chooses among candidates; null for one answer.
        candidates: Number of answers that are drawn for the scorer.
        max_length: Maximum number of tokens of a pair of message and answer that the scorer reads; longer pairs are
            truncated. By default 512, or all positions of a scorer that has fewer.
        max_new_tokens: Maximum number of tokens of an answer.
        temperature: Temperature of sampling; 0 takes the most probable token.
        top_p: Nucleus sampling: draw from the most probable tokens that together have this probability.
        stop: Texts that end an answer.
        seed: Seed of sampling.
        dtype: Type of the model's parameters, e.g. bfloat16.
        device: Device of model and scorer, e.g. cuda:1; by default the GPU if there is one.

    Raises:
        ValueError: There is not exactly one model, or the scorer has fewer than two answers to choose among.
    """
    from ..lightning_modules.inference.conversation import Conversation
    from ..lightning_modules.inference.loading import answering_model, decoding_of
    from ..lightning_modules.inference.model_sources import model_folder
    from ..lightning_modules.scoring.cross_encoder import CrossEncoder

    if isinstance(model, str) or len(model) != 1:
        raise ValueError(f"chat takes one model before its options, got {model}")
    if scorer is not None and (candidates < 2 or temperature == 0):
        raise ValueError(
            f"a scorer chooses among 2 candidates at least, which are drawn at a temperature above 0, got "
            f"candidates={candidates} and temperature={temperature}"
        )
    decoding = decoding_of(temperature, top_p, candidates if scorer is not None else 1)
    with model_folder(model[0]) as folder:
        settings: dict[str, Any] = {"chat": chat, "max_new_tokens": max_new_tokens, "stop": tuple(stop)}
        answering = answering_model(folder, dtype=dtype, device=device, **settings)
    judge = None
    if scorer is not None:
        judge = CrossEncoder.from_pretrained(scorer, device=answering.model.device, max_length=max_length)
    if not answering.chat:
        reason = "the model has no chat template" if chat is None else "no chat template is used"
        print(f"({reason}: every message is a prompt by itself)", file=sys.stderr)
    with suppress(KeyboardInterrupt):
        converse(Conversation(answering, decoding, system, seed), judge)


def converse(conversation: "Conversation", scorer: "CrossEncoder | None") -> None:
    """Answer typed messages until the input ends, or until the message ``/quit``."""
    for text in messages():
        if text == "/quit":
            return
        if text == "/reset":
            conversation.forget()
            continue
        before = conversation.dropped
        try:
            answer(conversation, text, scorer)
        except ValueError as error:
            print(visible(f"({error})"), flush=True)
        if conversation.dropped > before:
            print(f"(the first {conversation.dropped} messages do not fit any more)", file=sys.stderr)


def answer(conversation: "Conversation", text: str, scorer: "CrossEncoder | None") -> None:
    """Print the answer to a message; with a scorer, all candidates with their scores, the best first."""
    if scorer is None:
        conversation.reply(text, lambda part: print(visible(part), end="", flush=True))
        print(flush=True)
        return
    for place, candidate in enumerate(conversation.best_of(text, scorer)):
        mark = "*" if place == 0 else " "
        print(visible(f"{mark} {candidate.score:.3f}  {candidate.text}"), flush=True)


def messages() -> Iterator[str]:
    """Yield typed messages, or the lines of a pipe, until the input ends; empty ones are skipped.

    Raises:
        ValueError: A message is not UTF-8.
    """
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):
            import readline  # noqa: F401 - input() then edits lines and remembers them
    while True:
        try:
            line = input("> ") if typed else next(sys.stdin)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"a message is not UTF-8 ({error.reason}): set the terminal or the pipe to UTF-8"
            ) from error
        except (EOFError, StopIteration):
            if typed:
                print()
            return
        if text := line.strip():
            yield text
