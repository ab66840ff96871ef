"""``crosstask samples``: generate responses with a language model, or import those of another program."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from ..datamodules.packing.replicas import process_of_job
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.scoring.samples import SampleFile, write_generator_info
from ..lightning_modules.evaluation.generation import Decoding
from ..lightning_modules.scoring.sampling import (
    CAPPY_DECODINGS,
    RELEASED_DECODINGS,
    RELEASED_MAX_SOURCE,
    RELEASED_MIN_NEW_TOKENS,
    import_responses,
    load_generator,
    sample_responses,
)


def write_samples(
    examples: SampledExamples,
    output: str,
    generator: str | None = None,
    answers: Sequence[str] = (),
    prompts_only: bool = False,
    decodings: dict[str, Decoding] | None = None,
    faithful: bool = False,
    max_new_tokens: int = 64,
    max_source: int | None = None,
    stop: Sequence[str] = (),
    bos: bool = False,
    chat: bool = False,
    likelihood: bool = True,
    seed: int = 0,
    name: str | None = None,
    budget: int = 32_768,
    dtype: str = "float32",
    device: str | None = None,
) -> None:
    """Answer a benchmark's examples with a language model, or take over the answers of somebody else's.

    Started again it goes on where it was. Processes of a job (torchrun, or tasks of SLURM) share the examples, each
    with a file of its own; a sample does not depend on how many they are.

    Args:
        examples: Which examples, and how they are rendered.
        output: Folder of the files of samples, ``<name>-<process>-of-<processes>.jsonl``.
        generator: A causal or encoder-decoder model, by hub name or folder; or the folder of a trained prefix.
        answers: In its place, JSONL files with the texts task, id and response, any number for each example; what else
            a line may say is in datamodules/scoring/samples.py. White space around a response is removed.
        prompts_only: Write ``prompts.jsonl`` alone, task, id and prompt a line, for somebody else's program to answer.
        decodings: How the model answers, by name; by default Cappy's five, which give 17 responses.
        faithful: Draw as Cappy's released program does: the 50 most probable tokens at most, 3 tokens at least, and
            prompts of 512 tokens.
        max_new_tokens: Longest answer in tokens.
        max_source: Most tokens of a prompt; a longer one loses its beginning, and is counted. By default 1,024, or 512
            where `faithful`.
        stop: Texts that end an answer, beside eos.
        bos: Whether a decoder-only prompt begins with the tokenizer's bos token.
        chat: Ask in the tokenizer's chat template, which brings its own bos: a prompt is a user's message.
        likelihood: Note the log-likelihood of every answer, which self-scoring needs.
        seed: Of what is drawn.
        name: Of the generator in the files; by default the last part of its name.
        budget: Most tokens of a batch.
        dtype: Of the model's parameters.
        device: E.g. cuda:1; by default the process's own GPU where there is one.
    """
    if prompts_only:
        write_prompts(examples, Path(output).expanduser())
        return
    if (generator is None) == (not answers):
        raise ValueError(f"give either a generator or files of answers, got generator={generator!r}, answers={answers}")
    if chat and bos:
        raise ValueError("a chat template brings its own bos: leave bos false where chat is true")
    console, (rank, size, _) = Console(), process_of_job()
    name = name or (Path(generator).name if generator else Path(answers[0]).stem)
    path = Path(output).expanduser() / f"{name}-{rank:04}-of-{size:04}.jsonl"
    skipped: Counter[str] = Counter()
    if generator is None:
        prompts = {(each.task.name, each.example.id) for each in examples.prompts(skipped)}
        answered = import_responses(answers, prompts, path, name=name, rank=rank, size=size)
        console.print(
            f"{path}: answers to {answered} of {len(prompts)} examples checked; not sampled: {dict(skipped) or 'none'}"
        )
        return
    settings: dict[str, Any] = {
        "decodings": decodings or (RELEASED_DECODINGS if faithful else CAPPY_DECODINGS),
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": RELEASED_MIN_NEW_TOKENS if faithful else 0,
        "max_source": max_source or (RELEASED_MAX_SOURCE if faithful else 1024),
        "stop": tuple(stop),
        "bos": bos,
        "chat": chat,
        "likelihood": likelihood,
        "seed": seed,
    }
    about = {**settings, "decodings": {key: asdict(each) for key, each in settings["decodings"].items()}}
    about |= {"generator": generator, "prompt": examples.prompt.fingerprint(), "rendering_seed": examples.seed}
    about |= {"shots": examples.shots, "separator": examples.separator}
    expected = sum(decoding.samples for decoding in settings["decodings"].values())
    file = SampleFile(path, {**about, "dtype": dtype}, expected=expected)
    model, tokenizer = load_generator(generator, dtype=dtype, device=device)
    write_generator_info(path, generator, model.num_parameters())
    began = len(file.done)
    mine = islice(examples.prompts(skipped), rank, None, size)
    cut = sample_responses(model, tokenizer, mine, file, generator=name, budget=budget, **settings)
    console.print(
        f"{path}: {len(file.done)} examples with {expected} samples each, {began} of them from before; "
        f"{cut} prompts lost their beginning; not sampled: {dict(skipped) or 'none'}"
    )


def write_prompts(examples: SampledExamples, folder: Path) -> None:
    """What is sampled, for a program that answers it elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    path, skipped = folder / "prompts.jsonl", Counter[str]()
    sampled = [{"task": p.task.name, "id": p.example.id, "prompt": p.source} for p in examples.prompts(skipped)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in sampled), encoding="utf-8")
    Console().print(f"{path}: {len(sampled)} prompts; not sampled: {dict(skipped) or 'none'}")
