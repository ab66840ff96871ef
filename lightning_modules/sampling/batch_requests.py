"""Sampling of responses by OpenAI's batch API, or a server that reads its files (vLLM, SGLang).

The file of requests has one per line, for each decoding of an example::

    {"custom_id": "nucleus-63f0c2", "method": "POST", "url": "/v1/chat/completions",
     "body": {"model": "gpt", "messages": [{"role": "user", "content": "..."}], "n": 4, "top_p": 0.95, ...}}

A line of the answers has the same ``custom_id``, and the texts in ``response.body.choices``.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...datamodules.data_files import decoded, parse_json
from ...datamodules.scoring.sampled_examples import SampledPrompt
from ...datamodules.scoring.samples import Key, Sample, checked_sample, read_samples
from ..generation.decoding import Decoding

API_DECODINGS: dict[str, Decoding] = {
    "greedy": Decoding(),
    "sampling": Decoding(sampling=True, samples=4),
    "temperature": Decoding(sampling=True, samples=4, temperature=0.9),
    "nucleus": Decoding(sampling=True, samples=4, top_p=0.95),
}
"""Cappy's decodings as far as the API has them: greedy instead of its beam, and no top-k."""


def request_id(key: Key, decoding: str) -> str:
    """Return the ``custom_id`` of a request: the decoding's name, and a digest of the example's task and id."""
    return f"{decoding}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}"


def batch_requests(
    prompts: Iterable[SampledPrompt],
    model: str,
    decodings: Mapping[str, Decoding],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    likelihood: bool,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield the requests of a batch for OpenAI's API, one for each prompt and each decoding.

    Args:
        prompts: Rendered examples.
        model: Name of the model at the API.
        decodings: Decodings by name.
        max_new_tokens: Largest number of tokens of a response.
        stop: Texts that end a response.
        likelihood: Whether the API returns the tokens' log-likelihoods.
        seed: Seed of the sampled tokens.

    Raises:
        ValueError: The API has no such decoding.
    """
    bodies = {name: _sampling(name, decoding, stop) for name, decoding in decodings.items()}
    shared: dict[str, Any] = {"model": model, "max_completion_tokens": max_new_tokens, "seed": seed}
    if likelihood:
        shared["logprobs"] = True
    for prompt in prompts:
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt.example.turns[:-1]]
        for name, body in bodies.items():
            yield {
                "custom_id": request_id((prompt.task.name, prompt.example.id), name),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": shared | body | {"messages": messages or [{"role": "user", "content": prompt.source}]},
            }


def _sampling(name: str, decoding: Decoding, stop: Sequence[str]) -> dict[str, Any]:
    if decoding.beams > 1 or decoding.top_k or (not decoding.sampling and decoding.samples > 1):
        raise ValueError(
            f"the batch API has no beams and no top_k, and one greedy response: leave the decoding {name!r} out of "
            "`decodings`, or change it"
        )
    body: dict[str, Any] = {"n": decoding.samples, "temperature": decoding.temperature if decoding.sampling else 0.0}
    if decoding.top_p < 1:
        body["top_p"] = decoding.top_p
    ends = list(dict.fromkeys([*stop, *decoding.stop]))
    return body | ({"stop": ends} if ends else {})


def read_answers(
    files: Iterable[str | Path], known: Iterable[Key], failed: Counter[str]
) -> Iterator[tuple[Key, Sample]]:
    """Yield samples, with the task and id of their example, from files of samples or of a batch's answers.

    Args:
        files: JSONL files.
        known: (task, id) of the examples that may have answers.
        failed: Receives the number of failed requests, by the API's error code.

    Raises:
        ValueError: A file is missing, a line is neither, or an answer is to a request that was not made.
    """
    digests = {request_id(key, "")[1:]: key for key in known}
    for path in map(Path, files):
        if not _is_batch(path):
            yield from read_samples([path])
            continue
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield from _batch_samples(line, f"{path}:{number}", digests, failed)


def _is_batch(path: Path) -> bool:
    """Return whether the first line of a file answers a request of a batch."""
    if not path.is_file():
        return False  # `read_samples` names it
    with open(path, "rb") as lines:
        return b'"custom_id"' in next((line for line in lines if line.strip()), b"")


def _batch_samples(
    line: bytes, where: str, digests: Mapping[str, Key], failed: Counter[str]
) -> Iterator[tuple[Key, Sample]]:
    record = parse_json(decoded(line, where), where)
    decoding, _, digest = str(record.get("custom_id") if isinstance(record, dict) else "").rpartition("-")
    if digest not in digests:
        raise ValueError(
            f"{where}: an answer to none of the requests of these {len(digests)} examples: set the parts "
            "and counts of examples for which requests were written"
        )
    try:
        response = record.get("response") or {}
        if record.get("error") or str(response.get("status_code", 200)) != "200":
            failed[_error_code(record.get("error"), response)] += 1
            return
        for number, choice in enumerate(response["body"]["choices"]):
            yield digests[digest], _sample(choice, response["body"].get("model"), decoding, number)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where}: expected response.body.choices with messages, as the batch API writes ({error!r}); mend the "
            "line, or remove it to import the other responses"
        ) from error


def _error_code(error: Any, response: Mapping[str, Any]) -> str:
    """The code of a failed request: the API's, else the status of the response, else the error's text.

    Errors are ``{"code": ...}`` in OpenAI's files, and a text or ``{"error": {"code": ...}}`` in vLLM's, whose
    ``response.body`` is null then.
    """
    error = error or (response.get("body") or {}).get("error")
    fields = error.get("error", error) if isinstance(error, dict) else {}
    failed = str(response.get("status_code", 200)) != "200"
    return str(fields.get("code") or (response["status_code"] if failed else str(error)[:60]))


def _sample(choice: Mapping[str, Any], model: str | None, decoding: str, number: int) -> Sample:
    """Return a choice as a sample. Its log-likelihood is the sum over the tokens that the API returned.

    Raises:
        ValueError: Its model is no text, or its log-likelihood no number of a plausible size.
    """
    tokens = (choice.get("logprobs") or {}).get("content")
    total = None if tokens is None else min(sum(float(token["logprob"]) for token in tokens), 0.0)
    text = (choice["message"].get("content") or "").strip()
    return checked_sample(
        {
            "response": text,
            "generator": model,
            "decoding": decoding,
            "sample": number,
            "log_likelihood": total,
            "tokens": None if tokens is None else len(tokens),
        }
    )
