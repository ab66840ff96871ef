"""The command ``crosstask samples``: what language models answer, for the scorer's training data and its responses.

A language model is a black box here: whatever writes lines of ``datamodules/scoring/samples.py`` will do. A model of
transformers is run by ``write_samples``; what somebody else's program answered is checked and taken over, too.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.packing.replicas import process_of_job
from ...datamodules.rendering.tokenization import chat_prompt, load_tokenizer, tokenize_sources
from ...datamodules.scoring.sampled_examples import SampledPrompt
from ...datamodules.scoring.samples import Sample, SampleFile, read_samples
from ..attention.packable import require_document_attention
from ..evaluation.generation import Decoding, generate, prompt_seed
from ..evaluation.likelihood import score_options
from ..models import build_model
from ..prefixes import base_of_prefix, load_prefix, virtual_tokens

CAPPY_DECODINGS: dict[str, Decoding] = {
    "beam": Decoding(beams=4),
    "sampling": Decoding(sampling=True, samples=4),
    "temperature": Decoding(sampling=True, samples=4, temperature=0.9),
    "top_k": Decoding(sampling=True, samples=4, top_k=40),
    "nucleus": Decoding(sampling=True, samples=4, top_p=0.95),
}
"""The 17 responses of Cappy (arXiv 2311.06720, section 4.2), in the order of its released program."""

RELEASED_DECODINGS: dict[str, Decoding] = {
    "beam": Decoding(beams=4),
    "sampling": Decoding(sampling=True, samples=4, top_k=50),
    "temperature": Decoding(sampling=True, samples=4, temperature=0.9, top_k=50),
    "top_k": Decoding(sampling=True, samples=4, top_k=40),
    "nucleus": Decoding(sampling=True, samples=4, top_k=50, top_p=0.95),
}
"""What that program really draws: its library's hidden default keeps the 50 most probable tokens everywhere."""

RELEASED_MIN_NEW_TOKENS = 3
"""Its answers have three tokens at least."""

RELEASED_MAX_SOURCE = 512
"""It reads no more of a prompt."""

PROMPTS_AT_ONCE = 4096
"""Prompts that are sorted by length and answered together; tasks that are larger are answered in parts."""

WRITTEN_AT_ONCE = 64
"""Examples that are scored and written together: what a killed run loses at most."""


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[SampledPrompt],
    file: SampleFile,
    *,
    generator: str,
    decodings: Mapping[str, Decoding],
    max_new_tokens: int,
    min_new_tokens: int,
    max_source: int,
    stop: Sequence[str],
    bos: bool,
    chat: bool,
    likelihood: bool,
    seed: int,
    budget: int,
) -> int:
    """Answer the prompts that a file lacks, task by task, and write each as it is answered.

    Returns:
        How many prompts lost their beginning.
    """
    cut, pair = 0, bool(model.config.is_encoder_decoder)
    prefix = 0 if pair else virtual_tokens(model)
    positions = getattr(model.config, "max_position_embeddings", None) or max_source + max_new_tokens + prefix
    positions -= prefix
    room = min(max_source, positions - (0 if pair else max_new_tokens))
    if room < 1:
        raise ValueError(
            f"the model's {positions} positions leave no room for a prompt beside {max_new_tokens} new tokens"
        )
    for chunk in _chunks(prompts):
        left = [each for each in chunk if (each.task.name, each.example.id) not in file.done]
        if not left:
            continue
        texts = [chat_prompt(tokenizer, each.source) if chat else each.source for each in left]
        sources = tokenize_sources(tokenizer, texts, pair=pair, bos=bos)
        cut += sum(len(source) > room for source in sources)
        found = generate(
            model,
            tokenizer,
            [source[-room:] for source in sources],
            list(decodings.values()),
            seeds=[prompt_seed(seed, each.task.name, each.example.id) for each in left],
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            stop=stop,
            budget=budget,
        )
        longest = room + (0 if pair else max_new_tokens)
        while batch := list(islice(found, WRITTEN_AT_ONCE)):
            samples = [_named(answers, generator, decodings) for _, answers in batch]
            if likelihood:
                read, joint = [texts[place] for place, _ in batch], "" if chat else " "
                samples = with_likelihoods(model, tokenizer, read, samples, bos=bos, joint=joint, longest=longest)
            for (place, _), answered in zip(batch, samples, strict=True):
                file.write((left[place].task.name, left[place].example.id), answered)
    return cut


def _named(texts: Sequence[Sequence[str]], generator: str, decodings: Iterable[str]) -> list[Sample]:
    return [
        Sample(text, generator, decoding, number)
        for decoding, drawn in zip(decodings, texts, strict=True)
        for number, text in enumerate(drawn)
    ]


def _chunks(prompts: Iterable[SampledPrompt]) -> Iterator[list[SampledPrompt]]:
    for _, of_task in groupby(prompts, key=lambda each: each.task.name):
        while chunk := list(islice(of_task, PROMPTS_AT_ONCE)):
            yield chunk


def with_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    samples: Sequence[Sequence[Sample]],
    *,
    bos: bool = False,
    joint: str = " ",
    longest: int | None = None,
) -> list[list[Sample]]:
    """The samples of each source with the log-likelihood of their texts, each distinct text read once; "" has none.

    A text is tokenized again, as training targets are: what a model wrote in other tokens is scored in these.
    """
    texts = [list(dict.fromkeys(sample.response for sample in group if sample.response)) for group in samples]
    scores = score_options(model, tokenizer, sources, texts, bos=bos, joint=joint, longest=longest)
    found = []
    for group, distinct, of_texts in zip(samples, texts, scores, strict=True):
        pairs = zip(of_texts.sum, of_texts.token_mean, strict=True)
        known = {text: (s, round(s / m) if m else 0) for text, (s, m) in zip(distinct, pairs, strict=True)}
        known[""] = (None, None)  # type: ignore[assignment]
        found.append(
            [each._replace(log_likelihood=known[each.response][0], tokens=known[each.response][1]) for each in group]
        )
    return found


def load_generator(
    generator: str, *, dtype: str = "float32", device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model in evaluation mode, and its tokenizer; with document attention where the model can have it.

    Args:
        generator: Hub name or folder, also of a prefix alone, whose model is then found where its training found it.
        dtype: Of the parameters.
        device: By default the process's own GPU where there is one.

    Raises:
        ValueError: There is no such model.
    """
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype must be a type of torch, e.g. float32 or bfloat16, got {dtype!r}")
    base = base_of_prefix(generator)
    try:
        config = AutoConfig.from_pretrained(base or generator)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no model {base or generator!r}: expected a hub name or a folder with config.json ({error})"
        ) from error
    tokenizer = load_tokenizer(generator)
    options: dict[str, Any] = {"weights": base or generator, "vocabulary": 0, "dtype": getattr(torch, dtype)}
    try:
        if base is not None:
            raise ValueError("a prefix stands before one document a row")
        model = build_model(config, attention="document", **options)
        require_document_attention(model)
    except ValueError:
        model = build_model(config, attention="sdpa", **options)
    if base is not None:
        load_prefix(model, generator)
    if device is None:
        device = f"cuda:{process_of_job().local}" if torch.cuda.is_available() else "cpu"
    return model.to(torch.device(device)).eval(), tokenizer  # type: ignore[arg-type]


def import_responses(
    answers: Sequence[str], known: set[tuple[str, str]], path: Path, *, name: str, rank: int = 0, size: int = 1
) -> int:
    """Check files of answers line by line and write them as samples; without a generator's name they get `name`.

    Returns:
        To how many different examples there is an answer.

    Raises:
        ValueError: A line is no sample, or answers an example that was not sampled.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[tuple[str, str, str]] = Counter()
    with open(path.with_suffix(".part"), "w", encoding="utf-8") as out:
        for key, sample in read_samples(answers):
            if key not in known:
                raise ValueError(
                    f"{', '.join(answers)}: an answer to {key[0]} {key[1]}, which is none of the {len(known)} examples "
                    "sampled for: name the parts and counts that the answers were made for"
                )
            sample = sample._replace(generator=sample.generator or name)
            counted = (*key, sample.decoding)
            sample = sample._replace(sample=counts[counted])
            counts[counted] += 1
            if _shard(key, size) == rank:
                out.write(sample.line(*key))
    path.with_suffix(".part").replace(path)
    return len({(task, example) for task, example, _ in counts})


def _shard(key: tuple[str, str], size: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "little") % size
