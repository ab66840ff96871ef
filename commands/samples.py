"""Generate responses with a language model, or import those of another program.

`crosstask adapt` and `crosstask select` read the responses. Started again, it resumes where it was interrupted. The
processes of a job (torchrun, or tasks of SLURM) share the examples; a sample does not depend on their number.

Example:
    crosstask samples --examples.benchmark NaturalInstructions \\
      --examples.benchmark.folder runs/quickstart/toybench --generator google/flan-t5-small --output runs/samples
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from ..datamodules.messages import expanded, some
from ..datamodules.packing.replicas import process_of_job
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.special_tokens import bos_departure
from ..datamodules.scoring.instruction_cuts import Cut, instruction_cut
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.scoring.samples import SampleFile, write_generator_info
from ..datamodules.visible_text import terminal_text
from ..datamodules.whole_files import write_whole
from ..lightning_modules.evaluation.generation import Decoding
from ..lightning_modules.model_digest import model_digest
from ..lightning_modules.scoring.batch_requests import API_DECODINGS, batch_requests
from ..lightning_modules.scoring.sampling import (
    CAPPY_DECODINGS,
    RELEASED_DECODINGS,
    RELEASED_MAX_NEW_TOKENS,
    RELEASED_MAX_SOURCE,
    RELEASED_MIN_NEW_TOKENS,
    import_responses,
    load_generator,
    sample_responses,
)
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Generate or import by the words of a command line."""
    run_function(write_samples, words, benchmarks=True)


def write_samples(
    examples: SampledExamples,
    output: str | Path,
    generator: str | None = None,
    answers: Sequence[str] = (),
    prompts_only: bool = False,
    batch_model: str | None = None,
    decodings: dict[str, Decoding] | None = None,
    faithful: bool = False,
    max_new_tokens: int | None = None,
    max_source: int | None = None,
    cut: Cut | None = None,
    stop: Sequence[str] = (),
    bos: bool | None = None,
    chat: bool = False,
    likelihood: bool = True,
    seed: int = 0,
    name: str | None = None,
    budget: int = 32_768,
    dtype: str = "float32",
    device: str | None = None,
) -> None:
    """Generate responses to a benchmark's examples with a language model, or import those of another program.

    Started again, it resumes where it was interrupted. The processes of a job (torchrun, or tasks of SLURM) share the
    examples and write a file each; a sample does not depend on their number. Samples of other weights, settings or
    prompts in a file of the same name are never mixed with new ones or overwritten: the command is rejected.

    Args:
        examples: The examples, and how they are rendered.
        output: Folder of the sample files, ``<name>-<process>-of-<processes>.jsonl``.
        generator: A causal or encoder-decoder model, by hub name or folder; or the folder of a trained prefix.
        answers: Instead of a generator: JSONL files with the fields task, id and response, any number for an example;
            datamodules/scoring/samples.py lists optional fields. White space around a response is removed.
        prompts_only: Only write ``prompts.jsonl`` with task, id and prompt on each line, for another program.
        batch_model: Only write ``requests.jsonl``, requests to this model for OpenAI's batch API and servers that read
            its files; `answers` then reads the batch's output. The default is Cappy's decodings without beam and top-k.
        decodings: Decodings by name; by default the five of Cappy, which give 17 responses.
        faithful: Sample as Cappy's released program does: from the 50 most probable tokens, at least 3 and at most 63
            tokens, from the first 512 tokens of a prompt.
        max_new_tokens: Tokens of the longest response; by default 64, or 63 with `faithful`, whose 64 positions begin
            with the decoder's start.
        max_source: Tokens of the longest prompt; longer ones are cut and counted. By default 1,024, or 512 with
            `faithful`.
        cut: The part of a too long prompt that is cut, as in the scorer: by default the middle, and with `faithful` the
            end. Special tokens remain, but for a beginning that is cut.
        stop: Texts that end a response, beside eos.
        bos: Whether the bos token begins a prompt; null for what the tokenizer adds by itself.
        chat: Render prompts as a user's message by the tokenizer's chat template, which adds bos itself.
        likelihood: Store the log-likelihood of every response, which self-scoring needs.
        seed: Seed of sampling.
        name: Name of the generator in the files; by default the last part of `generator`.
        budget: Tokens of the largest batch.
        dtype: Type of the model's parameters.
        device: Device of the model, e.g. cuda:1; by default the GPU of the process if it has one.
    """
    require_positive("samples", max_new_tokens=max_new_tokens, max_source=max_source, budget=budget)
    if prompts_only:
        write_prompts(examples, expanded(output))
        return
    if batch_model is not None:
        requests = {"max_new_tokens": max_new_tokens or 64, "stop": stop, "likelihood": likelihood, "seed": seed}
        write_requests(examples, expanded(output), batch_model, decodings or API_DECODINGS, requests)
        return
    if (generator is None) == (not answers):
        raise ValueError(f"give either a generator or files of answers, got generator={generator!r}, answers={answers}")
    if chat and instruction_cut(cut, faithful=faithful) == "end":
        raise ValueError("the end of a chat prompt opens the model's turn and cannot be cut: set cut to middle")
    if chat and bos:
        raise ValueError("a chat template adds bos itself: leave bos out with chat")
    console, (rank, size, _) = Console(soft_wrap=True), process_of_job()
    if left_out := examples.reader.left_out():
        names = some([f"{name} ({reason})" for name, reason in left_out.items()])
        console.print(terminal_text(f"{len(left_out)} datasets are left out: {names}"), highlight=False)
    name = name or (Path(generator).name if generator else Path(answers[0]).stem)
    path = expanded(output) / f"{name}-{rank:04}-of-{size:04}.jsonl"
    skipped: Counter[str] = Counter()
    if generator is None:
        prompts = {(prompt.task.name, prompt.example.id) for prompt in examples.prompts(skipped)}
        failed = Counter[str]()
        imported = import_responses(answers, prompts, path, name=name, rank=rank, size=size, failed=failed)
        line = f"{path}: imported responses to {imported} of {len(prompts)} examples; "
        line += f"failed requests: {dict(failed)}; " if failed else ""
        console.print(terminal_text(f"{line}not sampled: {dict(skipped) or 'none'}"))
        return
    settings: dict[str, Any] = {
        "decodings": decodings or (RELEASED_DECODINGS if faithful else CAPPY_DECODINGS),
        "max_new_tokens": max_new_tokens or (RELEASED_MAX_NEW_TOKENS if faithful else 64),
        "min_new_tokens": RELEASED_MIN_NEW_TOKENS if faithful else 0,
        "max_source": max_source or (RELEASED_MAX_SOURCE if faithful else 1024),
        "cut": instruction_cut(cut, faithful=faithful),
        "stop": tuple(stop),
        "bos": bos,
        "chat": chat,
        "likelihood": likelihood,
        "seed": seed,
    }
    about = {**settings, "decodings": {key: asdict(decoding) for key, decoding in settings["decodings"].items()}}
    about |= {"weights": model_digest(generator), "name": name, "dtype": dtype}
    expected = sum(decoding.samples for decoding in settings["decodings"].values())
    file = SampleFile(path, about, expected=expected)
    model, tokenizer = load_generator(generator, dtype=dtype, device=device)
    if not chat and (departure := bos_departure(tokenizer, bos)):
        console.print(terminal_text(departure), highlight=False)
    write_generator_info(path, name, model.num_parameters())
    began = len(file.done)
    mine = islice(examples.prompts(skipped), rank, None, size)
    too_long = sample_responses(model, tokenizer, mine, file, generator=name, budget=budget, **settings)
    file.close()
    line = (
        f"{path}: {len(file.done)} examples with {expected} samples each, {began} of them from an earlier run; "
        f"the {settings['cut']} of {too_long} prompts was cut; not sampled: {dict(skipped) or 'none'}"
    )
    console.print(terminal_text(line))


def write_prompts(examples: SampledExamples, folder: Path) -> None:
    """Write the prompts of examples, for another program."""
    skipped = Counter[str]()
    sampled = [{"task": p.task.name, "id": p.example.id, "prompt": p.source} for p in examples.prompts(skipped)]
    _write_lines(folder / "prompts.jsonl", sampled, skipped)


def write_requests(
    examples: SampledExamples, folder: Path, model: str, decodings: Mapping[str, Decoding], settings: Mapping[str, Any]
) -> None:
    """Write requests for a batch API; `settings` are further arguments of ``batch_requests``."""
    skipped = Counter[str]()
    requests = list(batch_requests(examples.prompts(skipped), model, decodings, **settings))
    _write_lines(folder / "requests.jsonl", requests, skipped)


def _write_lines(path: Path, records: Sequence[Mapping[str, Any]], skipped: Mapping[str, int]) -> None:
    """Write JSON lines for another program, unless the file holds others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if path.exists() and path.read_bytes() != text.encode():
        raise ValueError(f"{path} holds other {path.stem}, to which responses may exist: name another output")
    write_whole(path, text)
    Console(soft_wrap=True).print(f"{path}: {len(records)} {path.stem}; not sampled: {dict(skipped) or 'none'}")
