"""Generate answers to the prompts of a file with any model, or to the test set of a run.

With --inputs, the prompts are JSON lines or a table, each with `prompt` (a text) or `messages` (role and content), and
optionally `id`; or the rows of a training file, whose answers become references. MODEL is a Hugging Face folder, a hub
name, the folder of a run or a checkpoint. Every line gets an answer, or the reason why it has none. An interrupted run
resumes when the command is run again.

Without --inputs, the settings are those of `crosstask fit`, and the test set is answered. The callback PredictionWriter
writes the answers as JSON lines.

Example:
    crosstask predict runs/quickstart --inputs my.jsonl --output answers.jsonl
    crosstask predict --config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..datamodules.atomic_files import require_new
from ..datamodules.messages import expanded
from ..datamodules.visible_text import visible
from .shared.function_command import run_function

if TYPE_CHECKING:  # torch and transformers, which the help does not need
    from ..lightning_modules.generation.decoding import Decoding
    from ..lightning_modules.inference.answer_file import AnswerFile
    from ..lightning_modules.inference.answering_model import AnsweringModel
    from ..lightning_modules.inference.prompt_file import Question

AT_ONCE = 1024
"""Number of prompts that are sorted by length and answered together."""


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    if any(word.partition("=")[0] == "--inputs" for word in words):
        run_function(answer_inputs, words)
        return
    from .shared.trainer import run_and_leave

    run_and_leave(["predict", *words])


def answer_inputs(
    model: Sequence[str],
    inputs: str,
    output: str,
    columns: dict[str, str] | None = None,
    roles: dict[str, str] | None = None,
    system: str | None = None,
    chat: bool | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    budget: int = 32_768,
    dtype: str = "float32",
    device: str | None = None,
) -> None:
    """Answer the prompts of a file.

    Args:
        model: Folder of a model, of a run or of a checkpoint, or a hub name.
        inputs: File of JSON lines with prompt, messages, conversations, instruction or input, and optionally id; or a
            table (CSV, TSV, parquet) with these columns. The answers of a training file are references.
        output: File to write, which is never overwritten: JSON lines in the order of the inputs, each with line, id,
            messages, references, and answer or skipped (the reason why there is no answer).
        columns: Column of the file for each of these fields whose name differs, e.g. ``{input: question, output:
            answer}``.
        roles: Role (system, user or assistant) of other names of speakers, e.g. ``{bot: assistant}``.
        system: System message of conversations that have none; null for none.
        chat: Whether the tokenizer's chat template renders the prompts; null uses the template if there is one.
        max_new_tokens: Maximum number of tokens of an answer.
        temperature: Temperature of sampling; 0 takes the most probable token.
        top_p: Nucleus sampling: draw from the most probable tokens that together have this probability.
        stop: Texts that end an answer.
        seed: Seed of sampling.
        budget: Maximum number of tokens of a batch.
        dtype: Type of the model's parameters, e.g. bfloat16.
        device: Device of the model, e.g. cuda:1; by default the GPU if there is one.

    Raises:
        ValueError: A line of the inputs cannot be read; nothing is generated then.
    """
    from ..lightning_modules.inference.answer_file import AnswerFile
    from ..lightning_modules.inference.loading import answering_model, decoding_of
    from ..lightning_modules.inference.model_sources import model_folder
    from ..lightning_modules.inference.prompt_file import read_questions_file
    from ..lightning_modules.model_digest import model_digest

    if isinstance(model, str) or len(model) != 1:
        raise ValueError(f"predict takes one model before its options, got {model}")
    path, source = expanded(output), expanded(inputs)
    require_new(path)
    decoding = decoding_of(temperature, top_p)
    questions = read_questions_file(source, system, columns, roles)
    with model_folder(model[0]) as folder:
        settings: dict[str, Any] = {"chat": chat, "max_new_tokens": max_new_tokens, "stop": tuple(stop)}
        answering = answering_model(folder, dtype=dtype, device=device, **settings)
        about = {**settings, "weights": model_digest(folder), "dtype": dtype, "seed": seed, "chat": answering.chat}
        about |= {"temperature": temperature, "top_p": top_p, "inputs": [question.messages for question in questions]}
        file = AnswerFile(path, about)
        resumed = len(file.results)
        answer_missing(answering, questions, file, decoding, seed=seed, budget=budget)
    file.finish(questions)
    print_counts(file, len(questions), resumed)


def print_counts(file: "AnswerFile", prompts: int, resumed: int) -> None:
    """Print the numbers of answered and skipped prompts; `resumed` of the answers are from an earlier run."""
    reasons = Counter(result["skipped"] for result in file.results.values() if "skipped" in result)
    earlier = f", {resumed} of them by an earlier run" if resumed else ""
    print(f"{file.path}: {prompts - reasons.total()} of {prompts} prompts answered{earlier}")
    for reason, count in reasons.most_common():
        print(visible(f"{count} without an answer: {reason}"))


def answer_missing(
    answering: "AnsweringModel",
    questions: "Sequence[Question]",
    file: "AnswerFile",
    decoding: "Decoding",
    *,
    seed: int,
    budget: int,
) -> None:
    """Answer the questions whose results are not in the file yet, ``AT_ONCE`` at a time, and add the results.

    Args:
        answering: The model with its tokenizer.
        questions: All questions.
        file: File of the results.
        decoding: Settings of sampling.
        seed: Seed of sampling.
        budget: Maximum number of tokens of a batch.
    """
    from ..lightning_modules.generation.decoding import prompt_seed

    missing = file.missing(questions)
    for begin in range(0, len(missing), AT_ONCE):
        part = missing[begin : begin + AT_ONCE]
        prompts: dict[int, list[int]] = {}
        for place, question in enumerate(part):
            ids, reason = ([], question.skipped) if question.skipped else answering.prompt(question.messages)
            if reason:
                file.add(question, {"skipped": reason})
            else:
                prompts[place] = ids
        places = list(prompts)
        seeds = [prompt_seed(seed, "predict", str(part[place].line)) for place in places]
        for number, [text] in answering.answers(list(prompts.values()), decoding, seeds, budget):
            file.add(part[places[number]], {"answer": text})
