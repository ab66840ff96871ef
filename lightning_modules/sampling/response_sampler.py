"""Sampling of responses from language models, for a scorer's training data and for selection.

Any program can generate responses if it writes the sample files of ``datamodules/scoring/samples.py``.
``sample_responses`` runs a model of transformers; ``imported_responses.py`` checks files of other programs.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...datamodules.pretrained_weights import read_config
from ...datamodules.rendering.chat import chat_prompt
from ...datamodules.rendering.special_tokens import leading_tokens
from ...datamodules.rendering.tokenization import load_tokenizer, tokenize_sources
from ...datamodules.schema import Turn
from ...datamodules.scoring.instruction_truncation import Cut, shortened_source
from ...datamodules.scoring.sample_writer import SampleFile
from ...datamodules.scoring.sampled_examples import SampledPrompt
from ...datamodules.scoring.samples import Key, Sample
from ...datamodules.scoring.truncated_texts import CutTexts
from ..attention.isolation_checks import padded_attention, require_document_attention
from ..devices import number_type, process_device
from ..evaluation.answer_form import AnswerForm, answer_form
from ..evaluation.likelihood import score_options
from ..generation.decoding import prompt_seed
from ..generation.generate import generate
from ..models import build_model, language_model_class, require_special_tokens
from ..prefixes import base_of_prefix, load_prefix, virtual_tokens
from .sampling_settings import SamplingSettings

PROMPTS_AT_ONCE = 4096
"""Maximum number of prompts that are sorted by length and sampled together; larger tasks are sampled in parts."""

WRITTEN_AT_ONCE = 64
"""Examples that are scored and written together: the most that an interrupted run loses."""


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[SampledPrompt],
    file: SampleFile,
    settings: SamplingSettings,
    *,
    generator: str,
    budget: int,
) -> int:
    """Sample responses to the prompts that a sample file lacks, task by task, and write them in batches.

    Args:
        model: Causal or encoder-decoder model, in evaluation mode.
        tokenizer: Tokenizer of the model.
        prompts: Rendered examples, ordered by task.
        file: Sample file that receives the responses.
        settings: Decodings, limits and seed.
        generator: Name of the model in the file.
        budget: Largest number of tokens in a batch.

    Returns:
        Number of prompts that were too long and were cut.

    Raises:
        ValueError: The model's positions leave no room for a prompt.
    """
    too_long, room, form = 0, _room(model, settings), answer_form(tokenizer, chat=settings.chat, bos=settings.bos)
    for chunk in _chunks(prompts):
        left = [prompt for prompt in chunk if not file.holds(_key(prompt), prompt.source)]
        if not left:
            continue
        texts = [chat_prompt(tokenizer, _turns(prompt)) if settings.chat else prompt.source for prompt in left]
        sources, longer = _sources(model, tokenizer, texts, room, settings.cut, form)
        too_long += longer
        responses = generate(
            model,
            tokenizer,
            sources,
            list(settings.decodings.values()),
            seeds=[prompt_seed(settings.seed, *_key(prompt)) for prompt in left],
            max_new_tokens=settings.max_new_tokens,
            min_new_tokens=settings.min_new_tokens,
            stop=settings.stop,
            ends=() if form.end is None else [form.end],
            budget=budget,
        )
        while batch := list(islice(responses, WRITTEN_AT_ONCE)):
            samples = [_to_samples(of_prompt, generator, settings.decodings) for _, of_prompt in batch]
            if settings.likelihood:
                read = [texts[place] for place, _ in batch]
                limits: dict[str, Any] = {"max_source": room, "cut": settings.cut}
                samples = with_likelihoods(model, tokenizer, read, samples, **form._asdict(), **limits)
            for (place, _), of_prompt in zip(batch, samples, strict=True):
                file.write(_key(left[place]), of_prompt, left[place].source)
    return too_long


def _room(model: PreTrainedModel, settings: SamplingSettings) -> int:
    """Return the largest number of tokens of a prompt that the settings and the model's positions allow.

    Raises:
        ValueError: There is none.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if not limit:
        return settings.max_source
    pair = model.config.is_encoder_decoder
    positions = limit - (0 if pair else virtual_tokens(model))
    room = positions - (0 if pair else settings.max_new_tokens)
    if room < 1:
        raise ValueError(
            f"the model's {positions} positions leave no room for a prompt beside {settings.max_new_tokens} new tokens"
        )
    return min(settings.max_source, room)


def _sources(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    room: int,
    cut: Cut,
    form: AnswerForm,
) -> tuple[list[list[int]], int]:
    """Return the token ids of prompts, cut to `room` tokens, and how many prompts were longer."""
    pair = bool(model.config.is_encoder_decoder)
    sources = tokenize_sources(tokenizer, texts, pair=pair, bos=form.bos, joint=form.joint)
    head = 0 if cut == "beginning" else len(leading_tokens(tokenizer, form.bos))
    kept = [shortened_source(source, room, cut, head=head, tail=int(pair)) for source in sources]
    _warn_of_equal(sources, kept, room)
    return kept, sum(len(source) > room for source in sources)


def _key(prompt: SampledPrompt) -> Key:
    return prompt.task.name, prompt.example.id


def _warn_of_equal(sources: Sequence[Sequence[int]], kept: Sequence[Sequence[int]], room: int) -> None:
    """Warn of prompts that became equal by being cut, since their responses are to the same text."""
    distinct = {tuple(source): tuple(short) for source, short in zip(sources, kept, strict=True) if len(source) >= room}
    texts = Counter(distinct.values())
    if equal := sum(count for count in texts.values() if count > 1):
        warnings.warn(f"{equal} prompts differ from another one only in the part that was cut", stacklevel=2)


def _turns(prompt: SampledPrompt) -> Sequence[Turn]:
    """Return the conversation to answer: the example's own, or its prompt as a user's message."""
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
    """Return sampled responses with their log-likelihoods under a language model, summed over tokens, in nats.

    The fields ``log_likelihood`` and ``tokens`` of each sample are set; for an empty response they are None.

    Each distinct text is scored once. It is tokenized as training targets are, whatever tokens it was generated from.

    Args:
        model: A causal or encoder-decoder language model.
        tokenizer: Tokenizer of the model.
        sources: The prompts.
        samples: The responses to each prompt.
        bos: Whether a prompt begins with the bos token; None for the tokenizer's own behavior.
        joint: Text between prompt and response of a decoder-only model.
        end: Token id at the end of a response; None for the tokenizer's eos.
        max_source: Largest number of tokens of a prompt; None for what the model's positions allow.
        cut: Part of a longer prompt that is cut: "beginning", "middle" or "end".
    """
    texts = [list(dict.fromkeys(sample.response for sample in group if sample.response)) for group in samples]
    scores = score_options(
        model,
        tokenizer,
        sources,
        texts,
        bos=bos,
        joint=joint,
        end=end,
        max_source=max_source,
        cut=cut,
        cuts=CutTexts(),  # in place of a warning: cuts are counted where texts are generated
    )
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
    """Return a language model in evaluation mode and its tokenizer; with document attention if the model supports it.

    Args:
        generator: Hub name or folder of a model, or folder of a trained prefix, which names its base model.
        dtype: Type of the parameters, e.g. "bfloat16".
        device: Device of the model; None for this process's GPU, or the CPU without one.

    Raises:
        ValueError: There is no such model.
    """
    parameter_type = number_type(dtype)
    base = base_of_prefix(generator)
    try:
        config = read_config(base or generator)
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
    require_special_tokens(tokenizer, model, generator)
    if base is not None:
        load_prefix(model, generator)
    return model.to(process_device(device)).eval(), tokenizer  # type: ignore[arg-type]
