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
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from ..datamodules.messages import expanded, some
from ..datamodules.packing.replicas import process_of_job
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.special_tokens import bos_departure
from ..datamodules.scoring.instruction_cuts import Cut
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.scoring.samples import SampleFile, write_generator_info
from ..datamodules.visible_text import terminal_text
from ..datamodules.whole_files import write_whole
from ..lightning_modules.generation.decoding import Decoding
from ..lightning_modules.model_digest import model_digest
from ..lightning_modules.sampling.batch_requests import API_DECODINGS, batch_requests
from ..lightning_modules.sampling.imported_responses import import_responses
from ..lightning_modules.sampling.sample_responses import load_generator, sample_responses
from ..lightning_modules.sampling.sampling_settings import RELEASED, SamplingSettings
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
    folder = expanded(output)
    if prompts_only:
        write_prompts(examples, folder)
        return
    if batch_model is not None:
        requests = {"max_new_tokens": max_new_tokens or 64, "stop": stop, "likelihood": likelihood, "seed": seed}
        write_requests(examples, folder, batch_model, decodings or API_DECODINGS, requests)
        return
    if (generator is None) == (not answers):
        raise ValueError(f"give either a generator or files of answers, got generator={generator!r}, answers={answers}")
    if generator is None:
        import_answers(examples, answers, folder, name or Path(answers[0]).stem)
        return
    given = {"decodings": decodings, "max_new_tokens": max_new_tokens, "max_source": max_source, "cut": cut}
    settings = replace(
        RELEASED if faithful else SamplingSettings(),
        **{key: value for key, value in given.items() if value},  # type: ignore[arg-type]
        stop=tuple(stop),
        bos=bos,
        chat=chat,
        likelihood=likelihood,
        seed=seed,
    )
    source = Generator(generator, name or Path(generator).name, dtype, device)
    generate_samples(examples, source, settings, folder, budget=budget)


class Generator(NamedTuple):
    """The model that is sampled.

    Args:
        source: Hub name, or folder of a model or a trained prefix.
        name: Its name in the files.
        dtype: Type of its parameters.
        device: Where it runs; None for the GPU of the process if it has one.
    """

    source: str
    name: str
    dtype: str
    device: str | None


def generate_samples(
    examples: SampledExamples, generator: Generator, settings: SamplingSettings, folder: Path, *, budget: int
) -> None:
    """Sample a model's responses to the examples of this process, beside those that its file has already."""
    path, name = _own_file(folder, generator.name), generator.name
    _print_left_out(examples)
    about = asdict(settings) | {"weights": model_digest(generator.source), "name": name, "dtype": generator.dtype}
    file = SampleFile(path, about, expected=settings.samples)
    model, tokenizer = load_generator(generator.source, dtype=generator.dtype, device=generator.device)
    if not settings.chat and (departure := bos_departure(tokenizer, settings.bos)):
        _print(departure)
    write_generator_info(path, name, model.num_parameters())
    began, skipped = len(file.done), Counter[str]()
    rank, size, _ = process_of_job()
    mine = islice(examples.prompts(skipped), rank, None, size)
    too_long = sample_responses(model, tokenizer, mine, file, settings, generator=name, budget=budget)
    file.close()
    _print(
        f"{path}: {len(file.done)} examples with {settings.samples} samples each, {began} of them from an earlier run; "
        f"the {settings.cut} of {too_long} prompts was cut; not sampled: {dict(skipped) or 'none'}"
    )


def import_answers(examples: SampledExamples, answers: Sequence[str], folder: Path, name: str) -> None:
    """Import responses of another program to the examples; `name` is the generator's where they name none."""
    path = _own_file(folder, name)
    _print_left_out(examples)
    rank, size, _ = process_of_job()
    skipped, failed = Counter[str](), Counter[str]()
    prompts = {(prompt.task.name, prompt.example.id) for prompt in examples.prompts(skipped)}
    imported = import_responses(answers, prompts, path, name=name, rank=rank, size=size, failed=failed)
    line = f"{path}: imported responses to {imported} of {len(prompts)} examples; "
    line += f"failed requests: {dict(failed)}; " if failed else ""
    _print(f"{line}not sampled: {dict(skipped) or 'none'}")


def _own_file(folder: Path, name: str) -> Path:
    """The sample file of this process."""
    rank, size, _ = process_of_job()
    return folder / f"{name}-{rank:04}-of-{size:04}.jsonl"


def _print_left_out(examples: SampledExamples) -> None:
    """Print the datasets that the benchmark leaves out, with the reasons."""
    if left_out := examples.reader.left_out():
        names = some([f"{name} ({reason})" for name, reason in left_out.items()])
        _print(f"{len(left_out)} datasets are left out: {names}")


def _print(line: str) -> None:
    Console(soft_wrap=True).print(terminal_text(line), highlight=False)


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
