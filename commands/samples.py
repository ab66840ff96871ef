"""Generate responses with a language model, or import those of another program.

`crosstask adapt` and `crosstask select` read the responses. An interrupted run resumes when the command is run again.
The processes of a job (torchrun, or tasks of SLURM) share the examples; a sample does not depend on their number.

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

from ..datamodules.atomic_files import write_whole
from ..datamodules.messages import counted, expanded, some
from ..datamodules.packing.replicas import process_of_job
from ..datamodules.packing.row_settings import require_positive
from ..datamodules.rendering.special_tokens import bos_departure
from ..datamodules.scoring.instruction_truncation import Cut
from ..datamodules.scoring.sample_writer import SampleFile, write_generator_info
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.visible_text import terminal_text
from ..lightning_modules.generation.decoding import Decoding
from ..lightning_modules.model_digest import model_digest
from ..lightning_modules.sampling.batch_requests import API_DECODINGS, batch_requests
from ..lightning_modules.sampling.imported_responses import import_responses
from ..lightning_modules.sampling.response_sampler import load_generator, sample_responses
from ..lightning_modules.sampling.sampling_settings import RELEASED, SamplingSettings
from .shared.function_command import run_function


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
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

    An interrupted run resumes when the command is run again. The processes of a job (torchrun, or tasks of SLURM) share
    the examples and write a file each; a sample does not depend on their number. If a file of the same name has samples
    of other weights, settings or prompts, the command is rejected, and the file is not changed.

    Args:
        examples: The examples to sample responses for, and the form of their prompts.
        output: Folder of the sample files, ``<name>-<process>-of-<processes>.jsonl``.
        generator: Hub name or folder of a causal or encoder-decoder model; or the folder of a trained prefix.
        answers: In place of a generator: JSONL files with the fields task, id and response, any number of lines for an
            example; datamodules/scoring/samples.py lists optional fields. White space around a response is removed.
        prompts_only: Only write ``prompts.jsonl`` with task, id and prompt on each line, for another program.
        batch_model: Name of a model: only write ``requests.jsonl``, requests to this model for OpenAI's batch API and
            servers that read its files; `answers` then reads the batch's output. The default decodings are Cappy's
            without beam search and top-k.
        decodings: Decodings by name; by default the five of Cappy, which give 17 responses.
        faithful: Sample as Cappy's released program does: from the 50 most probable tokens, at least 3 and at most 63
            tokens, from the first 512 tokens of a prompt.
        max_new_tokens: Maximum number of tokens of a response; by default 64, or 63 with `faithful`, whose 64 positions
            include the decoder's start token.
        max_source: Maximum number of tokens of a prompt; longer ones are truncated and counted. By default 1,024, or
            512 with `faithful`.
        cut: Part of a long prompt that is cut: ``middle``, ``end`` or ``beginning``. By default ``middle``, as for the
            scorer, or ``end`` with `faithful`. Special tokens remain, except if the beginning is cut.
        stop: Texts that end a response, beside eos.
        bos: Whether prompts begin with the bos token; null for the tokenizer's default.
        chat: Render each prompt as a user's message by the tokenizer's chat template, which adds bos itself.
        likelihood: Store the log-likelihood of every response, which self-scoring needs.
        seed: Seed of sampling.
        name: Name of the generator in the files; by default the last component of `generator`.
        budget: Maximum number of tokens of a batch.
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
    changes = {"decodings": decodings, "max_new_tokens": max_new_tokens, "max_source": max_source, "cut": cut}
    settings = replace(
        base_settings(faithful, changes), stop=tuple(stop), bos=bos, chat=chat, likelihood=likelihood, seed=seed
    )
    source = Generator(generator, name or Path(generator).name, dtype, device)
    generate_samples(examples, source, settings, folder, budget=budget)


def base_settings(faithful: bool, changes: Mapping[str, Any]) -> SamplingSettings:
    """Return the settings of Cappy's released program (`faithful`) or the defaults, with the changes that are set."""
    chosen = {name: value for name, value in changes.items() if value}
    return replace(RELEASED if faithful else SamplingSettings(), **chosen)


class Generator(NamedTuple):
    """Language model that responses are sampled from, and how it is loaded.

    Args:
        source: Hub name, or folder of a model or a trained prefix.
        name: Name of the model in the sample files.
        dtype: Type of the model's parameters.
        device: Device of the model; None for the GPU of the process if it has one.
    """

    source: str
    name: str
    dtype: str
    device: str | None


def generate_samples(
    examples: SampledExamples, generator: Generator, settings: SamplingSettings, folder: Path, *, budget: int
) -> None:
    """Sample responses to this process's share of the examples, except those that its file has already.

    Args:
        examples: The examples of all processes.
        generator: The model.
        settings: Decodings, lengths and seed.
        folder: Folder of the sample file.
        budget: Maximum number of tokens of a batch.
    """
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
        f"{path}: {counted(len(file.done), 'example')}, {counted(settings.samples, 'sample')} each, "
        f"{began} of them from an earlier run; "
        f"the {settings.cut} of {too_long} prompts was cut; not sampled: {dict(skipped) or 'none'}"
    )


def import_answers(examples: SampledExamples, answers: Sequence[str], folder: Path, name: str) -> None:
    """Import responses of another program to this process's share of the examples.

    Args:
        examples: The examples of all processes.
        answers: JSONL files of responses.
        folder: Folder of the sample file.
        name: Name of the generator, for responses that name none.
    """
    path = _own_file(folder, name)
    _print_left_out(examples)
    rank, size, _ = process_of_job()
    skipped, failed = Counter[str](), Counter[str]()
    prompts = {(prompt.task.name, prompt.example.id) for prompt in examples.prompts(skipped)}
    imported = import_responses(answers, prompts, path, name=name, rank=rank, size=size, failed=failed)
    line = f"{path}: imported responses to {imported.examples} of {len(prompts)} examples; "
    line += f"{imported.fewer} of them have fewer responses than others; " if imported.fewer else ""
    line += f"{counted(imported.empty, 'response is', 'responses are')} empty; " if imported.empty else ""
    line += f"failed requests: {dict(failed)}; " if failed else ""
    _print(f"{line}not sampled: {dict(skipped) or 'none'}")


def _own_file(folder: Path, name: str) -> Path:
    """Return the path of this process's sample file."""
    rank, size, _ = process_of_job()
    return folder / f"{name}-{rank:04}-of-{size:04}.jsonl"


def _print_left_out(examples: SampledExamples) -> None:
    """Print the datasets that the benchmark leaves out, with the reasons."""
    if left_out := examples.reader.left_out():
        names = some([f"{name} ({reason})" for name, reason in left_out.items()])
        _print(f"{counted(len(left_out), 'dataset is', 'datasets are')} left out: {names}")


def _print(line: str) -> None:
    Console(soft_wrap=True).print(terminal_text(line), highlight=False)


def write_prompts(examples: SampledExamples, folder: Path) -> None:
    """Write the prompts of examples to ``prompts.jsonl`` in `folder`, for another program."""
    skipped = Counter[str]()
    sampled = [{"task": p.task.name, "id": p.example.id, "prompt": p.source} for p in examples.prompts(skipped)]
    _write_lines(folder / "prompts.jsonl", sampled, skipped)


def write_requests(
    examples: SampledExamples, folder: Path, model: str, decodings: Mapping[str, Decoding], settings: Mapping[str, Any]
) -> None:
    """Write requests for OpenAI's batch API to ``requests.jsonl`` in `folder`.

    Args:
        examples: The examples.
        folder: Folder of the file.
        model: Name of the model to request.
        decodings: Decodings by name.
        settings: Further arguments of ``batch_requests``.
    """
    skipped = Counter[str]()
    requests = list(batch_requests(examples.prompts(skipped), model, decodings, **settings))
    _write_lines(folder / "requests.jsonl", requests, skipped)


def _write_lines(path: Path, records: Sequence[Mapping[str, Any]], skipped: Mapping[str, int]) -> None:
    """Write JSON lines for another program; reject an existing file with other lines, with a ValueError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if path.exists() and path.read_bytes() != text.encode():
        raise ValueError(f"{path} holds other {path.stem}, to which responses may exist: name another output")
    write_whole(path, text)
    _print(f"{path}: {len(records):,} {path.stem}; not sampled: {dict(skipped) or 'none'}")
