"""The command ``crosstask select``: responses from files of samples, scored, chosen, and reported in one table."""

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


class SampledResponses(NamedTuple):
    """An example with its responses, before they are scored."""

    prompt: SampledPrompt
    samples: Sequence[Sample]


def read_sampled_responses(examples: SampledExamples, samples: ModelSamples) -> list[SampledResponses]:
    """Every example with its responses, in the order of the examples.

    Raises:
        ValueError: An example has no response, or there is no example.
    """
    sampled = [
        SampledResponses(each, samples.samples(each.task.name).get(each.example.id, ())) for each in examples.prompts()
    ]
    if not sampled:
        raise ValueError(
            "there is no example to choose for: no instance of these tasks can be sampled, or none is wanted"
        )
    if missing := [each.prompt for each in sampled if not each.samples]:
        raise ValueError(
            f"{len(missing)} of {len(sampled)} examples have no response in {', '.join(samples.files)}, e.g. "
            f"{(missing[0].task.name, missing[0].example.id)}: finish the samples, or name the parts and counts that "
            "they were made for"
        )
    counts = Counter(name for each in sampled for name in {sample.generator for sample in each.samples})
    for each in sampled:
        _require_different(each)
    if partial := [f"{name} {count}" for name, count in counts.items() if count < len(sampled)]:
        warnings.warn(
            f"not every generator has a response to all {len(sampled)} examples ({', '.join(partial)}): rows of single "
            "decodings that some example lacks are left out",
            stacklevel=2,
        )
    if len(counts) > 1:
        return [each._replace(samples=[_named_by_generator(sample) for sample in each.samples]) for each in sampled]
    return sampled


def _require_different(sampled: SampledResponses) -> None:
    """Refuse two files whose generators have one name. A file of somebody else's program may number no samples."""
    names = Counter((each.generator, each.decoding, each.sample) for each in sampled.samples if each.sample)
    if twice := [name for name, count in names.items() if count > 1]:
        generator, decoding, _ = twice[0]
        raise ValueError(
            f"{sampled.prompt.task.name} {sampled.prompt.example.id} has samples of {decoding} by {generator!r} twice: "
            "give generators different names (crosstask samples --name)"
        )


def _named_by_generator(sample: Sample) -> Sample:
    return sample._replace(decoding=f"{sample.generator} {sample.decoding}")


def score_responses(encoder: CrossEncoder, sampled: Sequence[SampledResponses]) -> list[list[float]]:
    """The scorer's scores of every example's responses; an instruction is read as the scorer's training reads it."""
    pairs = [(each.prompt.source.strip(), sample.response) for each in sampled for sample in each.samples]
    flat = iter(encoder.score([instruction for instruction, _ in pairs], [response for _, response in pairs]).tolist())
    return [[next(flat) for _ in each.samples] for each in sampled]


def to_scored_responses(
    sampled: SampledResponses,
    scores: Mapping[str, Sequence[float]] = MappingProxyType({}),
    *,
    ranked: Collection[str] = (),
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
) -> ScoredResponses:
    """The responses of an example with their quality and scores.

    Args:
        sampled: The example.
        scores: Of each scorer.
        ranked: Scorers of a ranking loss, whose scores have no level.
        calibrations: What the scores of some are worth.
    """
    example = sampled.prompt.example
    found = {name: np.array(own, dtype=float) for name, own in scores.items()}
    votes = {}
    for name, own in found.items():
        votes[vote_name(name)] = preference_votes(own) if name in ranked else correctness_votes(own)
        if name in calibrations:
            votes[calibrated_name(name)] = correctness_votes(calibrations[name](own))
    return ScoredResponses.of(sampled.prompt.task.name, example.id, sampled.samples, example.targets, found, votes)
