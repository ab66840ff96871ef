"""Sampled responses: joining examples with their samples from files, and scoring them."""

import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ...datamodules.scoring.sampled_examples import SampledExamples, SampledPrompt
from ...datamodules.scoring.samples import ModelSamples, Sample
from .calibration import Calibration
from .cross_encoder import CrossEncoder
from .selection import (
    ScoredResponses,
    calibrated_name,
    correctness_votes,
    preference_votes,
    vote_name,
)

UNNAMED = "unnamed decoding"
"""Decoding of samples that have none."""


class SampledResponses(NamedTuple):
    """An example with its samples, before they are scored."""

    prompt: SampledPrompt
    samples: Sequence[Sample]


def read_sampled_responses(examples: SampledExamples, samples: ModelSamples) -> list[SampledResponses]:
    """Every example with its samples, in the order of the examples.

    Raises:
        ValueError: An example has no samples, or there are no examples.
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
    for one in sampled:
        _require_different_generators(one)
    if partial := [f"{name} {count}" for name, count in counts.items() if count < len(sampled)]:
        warnings.warn(
            f"not every generator has responses to all {len(sampled)} examples ({', '.join(partial)}): rows of single "
            "decodings that an example lacks are left out",
            stacklevel=2,
        )
    if len(counts) > 1:
        return [one._replace(samples=[_named_by_generator(sample) for sample in one.samples]) for one in sampled]
    return sampled


def _named(sample: Sample) -> Sample:
    """The sample with a decoding, which is a row of tables; files of other programs may not name it."""
    return sample._replace(decoding=sample.decoding or UNNAMED)


def _require_different_generators(sampled: SampledResponses) -> None:
    """Reject files of different generators with the same name; files of other programs may not number samples."""
    names = Counter((one.generator, one.decoding, one.sample) for one in sampled.samples if one.sample)
    if twice := [name for name, count in names.items() if count > 1]:
        generator, decoding, _ = twice[0]
        raise ValueError(
            f"{sampled.prompt.task.name} {sampled.prompt.example.id} has samples of {decoding} by {generator!r} twice: "
            "give generators different names (crosstask samples --name)"
        )


def _named_by_generator(sample: Sample) -> Sample:
    return sample._replace(decoding=f"{sample.generator} {sample.decoding}")


def score_responses(encoder: CrossEncoder, sampled: Sequence[SampledResponses]) -> list[list[float]]:
    """Scores of every example's responses; instructions are stripped, as in the scorer's training."""
    pairs = [(one.prompt.source.strip(), sample.response) for one in sampled for sample in one.samples]
    flat = iter(encoder.score([instruction for instruction, _ in pairs], [response for _, response in pairs]).tolist())
    return [[next(flat) for _ in one.samples] for one in sampled]


def to_scored_responses(
    sampled: SampledResponses,
    scores: Mapping[str, Sequence[float]] = MappingProxyType({}),
    *,
    ranked: Collection[str] = (),
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
) -> ScoredResponses:
    """An example's responses with their quality, scores and votes.

    Args:
        sampled: The example with its samples.
        scores: Scores of the samples by each scorer, by its name.
        ranked: Names of scorers with a ranking loss, whose scores have no level.
        calibrations: Calibrations of scorers, by name.
    """
    example = sampled.prompt.example
    arrays = {name: np.array(values, dtype=float) for name, values in scores.items()}
    votes = {}
    for name, values in arrays.items():
        votes[vote_name(name)] = preference_votes(values) if name in ranked else correctness_votes(values)
        if name in calibrations:
            votes[calibrated_name(name)] = correctness_votes(calibrations[name](values))
    return ScoredResponses.of(sampled.prompt.task.name, example.id, sampled.samples, example.targets, arrays, votes)
