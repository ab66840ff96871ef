"""Sampling responses of language models, for a scorer's training data and for selection.

A language model is a black box here: any program that writes the sample files of ``datamodules/scoring/samples.py``
will do. ``sample_responses`` runs a model of transformers; ``import_responses`` checks files of other programs.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.file_digests import file_digest
from ...datamodules.hub_names import hub_source
from ...datamodules.rendering.chat import chat_end, chat_joint, chat_prompt
from ...datamodules.rendering.special_tokens import leading_tokens
from ...datamodules.rendering.tokenization import load_tokenizer, tokenize_sources
from ...datamodules.schema import Turn
from ...datamodules.scoring.instruction_cuts import Cut, shortened_source
from ...datamodules.scoring.sampled_examples import SampledPrompt
from ...datamodules.scoring.samples import Sample, SampleFile, require_settings
from ...datamodules.whole_files import whole_file
from ..attention.packable import padded_attention, require_document_attention
from ..evaluation.generation import Decoding, generate, prompt_seed
from ..evaluation.likelihood import score_options
from ..models import build_model, language_model_class
from ..prefixes import base_of_prefix, load_prefix, virtual_tokens
from .batch_requests import read_answers
from .devices import number_type, process_device

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
"""The decodings of that program in effect: its library's default top_k = 50 applies everywhere."""

RELEASED_MIN_NEW_TOKENS = 3
"""Fewest tokens of a response in that program."""

RELEASED_MAX_NEW_TOKENS = 63
"""Most tokens of a response in that program, whose 64 positions begin with the decoder's start."""

RELEASED_MAX_SOURCE = 512
"""Most tokens of a prompt in that program, which keeps its beginning."""

PROMPTS_AT_ONCE = 4096
"""Most prompts of a task that are sorted by length and sampled together; larger tasks are sampled in parts."""

WRITTEN_AT_ONCE = 64
"""Examples that are scored and written together: the most that an interrupted run loses."""


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
    cut: Cut,
    stop: Sequence[str],
    bos: bool | None,
    chat: bool,
    likelihood: bool,
    seed: int,
    budget: int,
) -> int:
    """Sample responses to the prompts that a file lacks, task by task, and write them in batches.

    Returns:
        How many prompts were too long and were cut.
    """
    too_long, pair = 0, bool(model.config.is_encoder_decoder)
    prefix = 0 if pair else virtual_tokens(model)
    positions = getattr(model.config, "max_position_embeddings", None) or max_source + max_new_tokens + prefix
    positions -= prefix
    room = min(max_source, positions - (0 if pair else max_new_tokens))
    if room < 1:
        raise ValueError(
            f"the model's {positions} positions leave no room for a prompt beside {max_new_tokens} new tokens"
        )
    form: dict[str, Any] = {"bos": bos, "joint": " ", "end": None}
    if chat:  # the template writes bos, the text before the answer, and the answer's end
        form = {"bos": False, "joint": chat_joint(tokenizer), "end": chat_end(tokenizer)}
    head = 0 if cut == "beginning" else len(leading_tokens(tokenizer, form["bos"]))
    for chunk in _chunks(prompts):
        left = [prompt for prompt in chunk if not file.holds((prompt.task.name, prompt.example.id), prompt.source)]
        if not left:
            continue
        texts = [chat_prompt(tokenizer, _turns(prompt)) if chat else prompt.source for prompt in left]
        sources = tokenize_sources(tokenizer, texts, pair=pair, bos=form["bos"], joint=form["joint"])
        too_long += sum(len(source) > room for source in sources)
        kept = [shortened_source(source, room, cut, head=head, tail=int(pair)) for source in sources]
        _warn_of_equal(sources, kept, room)
        responses = generate(
            model,
            tokenizer,
            kept,
            list(decodings.values()),
            seeds=[prompt_seed(seed, prompt.task.name, prompt.example.id) for prompt in left],
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            stop=stop,
            ends=() if form["end"] is None else [form["end"]],
            budget=budget,
        )
        while batch := list(islice(responses, WRITTEN_AT_ONCE)):
            samples = [_to_samples(texts_by_decoding, generator, decodings) for _, texts_by_decoding in batch]
            if likelihood:
                read = [texts[place] for place, _ in batch]
                samples = with_likelihoods(model, tokenizer, read, samples, max_source=room, cut=cut, **form)
            for (place, _), of_prompt in zip(batch, samples, strict=True):
                prompt = left[place]
                file.write((prompt.task.name, prompt.example.id), of_prompt, prompt.source)
    return too_long


def _warn_of_equal(sources: Sequence[Sequence[int]], kept: Sequence[Sequence[int]], room: int) -> None:
    """Warn of prompts that differ from another one only in what was cut, since their responses are to the same text."""
    distinct = {tuple(source): tuple(short) for source, short in zip(sources, kept, strict=True) if len(source) >= room}
    texts = Counter(distinct.values())
    if equal := sum(count for count in texts.values() if count > 1):
        warnings.warn(f"{equal} prompts differ from another one only in the part that was cut", stacklevel=2)


def _turns(prompt: SampledPrompt) -> Sequence[Turn]:
    """The conversation to answer: the example's own, or its prompt as a user's message."""
    return prompt.example.turns[:-1] or (Turn("user", prompt.source),)


def _to_samples(texts: Sequence[Sequence[str]], generator: str, decodings: Iterable[str]) -> list[Sample]:
    return [
        Sample(text, generator, decoding, number)
        for decoding, responses in zip(decodings, texts, strict=True)
        for number, text in enumerate(responses)
    ]


def _chunks(prompts: Iterable[SampledPrompt]) -> Iterator[list[SampledPrompt]]:
    for _, of_task in groupby(prompts, key=lambda prompt: prompt.task.name):
        while chunk := list(islice(of_task, PROMPTS_AT_ONCE)):
            yield chunk


def with_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    samples: Sequence[Sequence[Sample]],
    *,
    bos: bool | None = None,
    joint: str = " ",
    end: int | None = None,
    max_source: int | None = None,
    cut: Cut = "beginning",
) -> list[list[Sample]]:
    """The samples of each source with their log-likelihoods; an empty text has none.

    Each distinct text is read once. It is tokenized as training targets are, whatever tokens it was generated in.
    """
    texts = [list(dict.fromkeys(sample.response for sample in group if sample.response)) for group in samples]
    limits: dict[str, Any] = {"max_source": max_source, "cut": cut, "cuts": Counter()}  # counted where it generates
    scores = score_options(model, tokenizer, sources, texts, bos=bos, joint=joint, end=end, **limits)
    scored = []
    for group, distinct, of_texts in zip(samples, texts, scores, strict=True):
        pairs = zip(of_texts.sum, of_texts.token_mean, strict=True)
        likelihood: dict[str, tuple[float | None, int | None]] = {"": (None, None)}
        likelihood |= {text: (s, round(s / m) if m else 0) for text, (s, m) in zip(distinct, pairs, strict=True)}
        scored.append(
            [
                sample._replace(log_likelihood=likelihood[sample.response][0], tokens=likelihood[sample.response][1])
                for sample in group
            ]
        )
    return scored


def load_generator(
    generator: str, *, dtype: str = "float32", device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model in evaluation mode, and its tokenizer; with document attention if the model supports it.

    Args:
        generator: Hub name or folder of a model, or folder of a trained prefix, which names its model.
        dtype: Type of the parameters.
        device: By default this process's GPU, or the CPU without one.

    Raises:
        ValueError: There is no such model.
    """
    parameter_type = number_type(dtype)
    base = base_of_prefix(generator)
    try:
        source, revision = hub_source(base or generator)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no model {base or generator!r}: expected a hub name or a folder with config.json ({error})"
        ) from error
    tokenizer = load_tokenizer(generator)
    options: dict[str, Any] = {"weights": base or generator, "vocabulary": 0, "dtype": parameter_type}
    try:
        if base is not None:
            raise ValueError("a prefix needs one document a row")
        model = build_model(config, attention="document", **options)
        require_document_attention(model)
    except ValueError:
        model = build_model(config, attention=padded_attention(language_model_class(config)), **options)
    if base is not None:
        load_prefix(model, generator)
    return model.to(process_device(device)).eval(), tokenizer  # type: ignore[arg-type]


def import_responses(
    answers: Sequence[str],
    known: set[tuple[str, str]],
    path: Path,
    *,
    name: str,
    rank: int = 0,
    size: int = 1,
    failed: Counter[str] | None = None,
) -> int:
    """Check files of responses line by line and write them as samples.

    Args:
        answers: The files, of samples or of the answers to a batch's requests.
        known: (task, id) of the examples that may have responses.
        path: The sample file to write.
        name: The generator's name for lines without one.
        rank: Number of this process; it writes the samples of every `size`-th example.
        size: Number of processes.
        failed: Receives the number of requests that failed, by the API's error code.

    Returns:
        How many examples have a response.

    Raises:
        ValueError: A line is not a sample, or belongs to an example that is not `known`; or `path` holds other
            responses, and is not changed.
    """
    require_settings(path, {"imported": [file_digest(Path(file)) for file in answers], "name": name})
    numbers: dict[tuple[str, str, str, str], set[int]] = {}
    with whole_file(path) as out:
        for key, sample in read_answers(answers, known, Counter() if failed is None else failed):
            if key not in known:
                raise ValueError(
                    f"{', '.join(answers)}: a response to {key[0]} {key[1]}, which is none of the {len(known)} "
                    "examples: set the parts and counts of examples that were sampled"
                )
            sample = sample._replace(generator=sample.generator or name)
            taken = numbers.setdefault((*key, sample.generator, sample.decoding), set())
            number = len(taken) if sample.sample is None else sample.sample
            if number in taken:
                decoding = sample.decoding or "no decoding"
                raise ValueError(
                    f"{', '.join(answers)}: {key[0]} {key[1]} has sample {number} of {decoding} twice: remove the "
                    "copy, or leave `sample` out of all lines"
                )
            taken.add(number)
            sample = sample._replace(sample=number)
            if _shard(key, size) == rank:
                out.write(sample.line(*key))
    return len({key[:2] for key in numbers})


def _shard(key: tuple[str, str], size: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "little") % size
