"""Sampled responses: examples joined with their samples from files, and scored."""

import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ...datamodules.rouge import Rouge
from ...datamodules.scoring.sampled_examples import SampledExamples, SampledPrompt
from ...datamodules.scoring.samples import ModelSamples, Sample
from .calibration import Calibration
from .cross_encoder import CrossEncoder
from .selection import (
    RESERVED,
    ScoredResponses,
    calibrated_name,
    correctness_votes,
    preference_votes,
    vote_name,
)

UNNAMED, UNNAMED_GENERATOR = "unnamed decoding", "unnamed generator"
"""Decoding and generator of samples that have none."""


class SampledResponses(NamedTuple):
    """An example, rendered as a prompt, with the responses that language models have sampled; without scores.

    Args:
        prompt: The example with its task and the text of its prompt.
        samples: The responses, in the order of the sample files.
    """

    prompt: SampledPrompt
    samples: Sequence[Sample]


def read_sampled_responses(examples: SampledExamples, samples: ModelSamples) -> list[SampledResponses]:
    """Return every example with the responses to it in sample files, in the order of the examples.

    Args:
        examples: The examples, rendered as prompts.
        samples: Sample files of one or several language models.

    Raises:
        ValueError: An example has no samples, a decoding has the name of a selection method, or there are no examples.
    """
    sampled = [
        SampledResponses(prompt, list(map(_named, samples.samples(prompt.task.name).get(prompt.example.id, ()))))
        for prompt in examples.prompts()
    ]
    if not sampled:
        raise ValueError(
            "there are no examples to select responses for: no instance of these tasks can be rendered, or their "
            "number is set to 0"
        )
    if missing := [one.prompt for one in sampled if not one.samples]:
        raise ValueError(
            f"{len(missing)} of {len(sampled)} examples have no response in {', '.join(samples.files)}, e.g. "
            f"{(missing[0].task.name, missing[0].example.id)}: finish sampling, or set the parts and counts of "
            "examples that were sampled"
        )
    counts = Counter(name for one in sampled for name in {sample.generator for sample in one.samples})
    _require_decodings(sampled)
    _warn_of_likelihoods(sampled)
    if partial := [f"{name or UNNAMED_GENERATOR} {count}" for name, count in counts.items() if count < len(sampled)]:
        warnings.warn(
            f"not every generator has responses to all {len(sampled)} examples ({', '.join(partial)}): rows of single "
            "decodings that an example lacks are left out",
            stacklevel=2,
        )
    if len(counts) > 1:
        return [one._replace(samples=[_named_by_generator(sample) for sample in one.samples]) for one in sampled]
    return sampled


def _named(sample: Sample) -> Sample:
    """Return the sample with a decoding, which names a row of tables; files of other programs may not state it."""
    return sample._replace(decoding=sample.decoding or UNNAMED)


def _require_decodings(sampled: Sequence[SampledResponses]) -> None:
    """Reject decodings with the name of a selection method."""
    names = {sample.decoding for one in sampled for sample in one.samples}
    if reserved := sorted(names & RESERVED):
        raise ValueError(
            f"samples have the decoding {reserved[0]!r}, which is the name of a method in tables: rename it in the "
            f"files; other such names are {', '.join(sorted(RESERVED - {reserved[0]}))}"
        )


def _warn_of_likelihoods(sampled: Sequence[SampledResponses]) -> None:
    """Warn if self-scoring is left out because some samples have no likelihood; if none has one, it is not expected."""
    samples = [sample for one in sampled for sample in one.samples if sample.response]
    known = [sample for sample in samples if sample.log_likelihood is not None]
    lacking = {
        "self-scoring": (len(samples) - len(known), "log_likelihood"),
        "self-scoring by the mean over tokens": (sum(sample.tokens is None for sample in known), "tokens"),
    }
    for rows, (count, field) in lacking.items() if known else ():
        if count:
            warnings.warn(f"{rows} is left out: {count} of {len(samples)} samples have no {field}", stacklevel=3)


def _named_by_generator(sample: Sample) -> Sample:
    return sample._replace(decoding=f"{sample.generator or UNNAMED_GENERATOR} {sample.decoding}")


def score_responses(encoder: CrossEncoder, sampled: Sequence[SampledResponses]) -> list[list[float]]:
    """Return a scorer's score of each response to each example, in the order of the examples and their responses.

    White space around instructions is removed, as in the scorer's training.
    """
    pairs = [(one.prompt.source.strip(), sample.response) for one in sampled for sample in one.samples]
    flat = iter(encoder.score([instruction for instruction, _ in pairs], [response for _, response in pairs]).tolist())
    return [[next(flat) for _ in one.samples] for one in sampled]


def to_scored_responses(
    sampled: SampledResponses,
    scores: Mapping[str, Sequence[float]] = MappingProxyType({}),
    *,
    ranked: Collection[str] = (),
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
    rouge: Rouge = "exact",
) -> ScoredResponses:
    """Return an example's responses with all that selection methods need: quality, scores and votes.

    Quality is ROUGE-L against the example's references, in [0, 1]. Votes are the weights of responses in
    self-consistency and minimum Bayes risk, derived from the scores.

    Args:
        sampled: An example with its samples.
        scores: By a scorer's name, its score of each sample, in their order.
        ranked: Names of scorers with a ranking loss, whose scores have no absolute level.
        calibrations: By a scorer's name, the map from its scores to correctness, for scorers that have one.
        rouge: Implementation of ROUGE-L, as in the module's `rouge`.
    """
    example = sampled.prompt.example
    arrays = {name: np.array(values, dtype=float) for name, values in scores.items()}
    votes = {}
    for name, values in arrays.items():
        votes[vote_name(name)] = preference_votes(values) if name in ranked else correctness_votes(values)
        if name in calibrations:
            votes[calibrated_name(name)] = correctness_votes(calibrations[name](values))
    name, references = sampled.prompt.task.name, example.targets
    return ScoredResponses.of(name, example.id, sampled.samples, references, arrays, votes, rouge)
