"""Generation with crosstask against `generate` on padded batches in file order, and against continuous batching.

    python perf/generation.py [--prompts 128] [--rounds 3]
    python perf/generation.py --compiled  # greedy answers, with decoding.compile against without

Measures one greedy answer to each prompt, and the 17 responses of Cappy's evaluation (arXiv 2311.06720: four each by
sampling, temperature 0.9, top-k 40 and nucleus 0.95, and a beam of 4), for which the first peer calls ``generate`` once
per decoding with ``num_return_sequences``. Its batches hold as many sequences as ours on average. The second peer is
transformers' ``generate_batch``, greedy alone. The model has random weights, and ends an answer where the likeliest
token is one of a few, so that answers have many lengths. Rounds alternate; the first one warms up. Texts are real ones
if CROSSTASK_DATA is set. Seconds are the processor's, or on a GPU those that pass. The tables are printed as
docs/performance.md shows them.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import data_name, print_result
from torch import Tensor
from training import MODEL, ROW, read_documents
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from crosstask.datamodules.evaluation.batch_loaders import pad_prompts
from crosstask.lightning_modules.devices import number_type
from crosstask.lightning_modules.generation.decoding import Decoding
from crosstask.lightning_modules.generation.generate import generate
from crosstask.lightning_modules.models import build_model, model_config

GREEDY = [Decoding()]
CANDIDATES = [
    Decoding(beams=4),
    Decoding(sampling=True, samples=4),
    Decoding(sampling=True, samples=4, temperature=0.9),
    Decoding(sampling=True, samples=4, top_k=40),
    Decoding(sampling=True, samples=4, top_p=0.95),
]
Sources = Sequence[Sequence[int]]


def in_file_order(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sources,
    decodings: Sequence[Decoding],
    *,
    batch: int,
    new: int,
) -> list[list[str]]:
    """Return the texts of each prompt by transformers' ``generate`` on padded batches, decoding after decoding."""
    texts: list[list[str]] = [[] for _ in sources]
    for start in range(0, len(sources), batch):
        ids, mask = pad_prompts(sources[start : start + batch], tokenizer.pad_token_id, left=True)
        for decoding in decodings:
            settings: dict[str, Any] = {"do_sample": decoding.sampling, "num_beams": decoding.beams}
            if decoding.sampling:
                settings |= {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p}
            config = GenerationConfig(
                max_new_tokens=new,
                num_return_sequences=decoding.samples,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **settings,
            )
            inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
            out = model.generate(**inputs, generation_config=config)  # type: ignore[operator]
            found = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
            for row, text in enumerate(found):
                texts[start + row // decoding.samples].append(text.strip())
    return texts


def continuously(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sources: Sources, *, new: int) -> Any:
    """Return the greedy texts of transformers' continuous batching."""
    config = GenerationConfig(
        max_new_tokens=new, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    # On a CPU it would take 60% of the memory; a block has 32 tokens.
    sizes = {"num_blocks": 1024, "max_batch_tokens": 512} if model.device.type == "cpu" else {}
    blocks = ContinuousBatchingConfig(**sizes)
    outputs = model.generate_batch(  # type: ignore[operator]
        [list(source) for source in sources],
        generation_config=config,
        continuous_batching_config=blocks,
        progress_bar=False,
    )
    ids = [outputs[name].generated_tokens for name in sorted(outputs, key=lambda name: int(name.split("_")[-1]))]
    return [[text.strip()] for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def ours(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sources,
    decodings: Sequence[Decoding],
    *,
    budget: int,
    new: int,
) -> list[list[str]]:
    """Return the texts of each prompt by crosstask's generation."""
    options: dict[str, Any] = {"max_new_tokens": new, "budget": budget, "seeds": range(len(sources))}
    answers = sorted(generate(model, tokenizer, sources, decodings, **options))
    return [[text for texts in of_prompt for text in texts] for _, of_prompt in answers]


def ending_model(
    vocabulary: int, end: int, attention: str, settings: argparse.Namespace, *, counted: bool = True
) -> tuple[PreTrainedModel, list[int]]:
    """Return a model with answers of a given mean length, and a list to which each forward adds its tokens.

    Only if `counted`: a list that grows would be compiled again at every step.
    """
    torch.manual_seed(0)
    heads = settings.width // 64
    shape = {
        "hidden_size": settings.width,
        "intermediate_size": 3 * settings.width,
        "num_hidden_layers": settings.layers,
    }
    shape |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    config = model_config({**MODEL, **shape}, vocabulary=vocabulary, dropout=None)
    dtype = number_type(settings.dtype)
    with torch.device(settings.device):  # random weights of 1.3B take 14 s on a CPU
        model = build_model(config, weights=None, vocabulary=vocabulary, attention=attention, dtype=dtype).eval()
    length = settings.length
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.1)  # with smaller weights it repeats one token

    def with_end(_: Any, __: Any, logits: Tensor) -> Tensor:
        best, token = logits.max(dim=-1)
        logits[..., end] = torch.where(token % length == 0, best + 5, best - 5)
        return logits

    assert model.generation_config is not None
    model.generation_config.eos_token_id = end  # Llama has another one by default
    read: list[int] = []
    model.get_output_embeddings().register_forward_hook(with_end)
    if counted:
        model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].numel()))
    return model, read


class Measured(NamedTuple):
    """Measurement of a way to generate: median seconds, and the answers, forwards and read tokens of the last round."""

    seconds: float
    answers: list[list[str]]
    forwards: int
    tokens: int


def measured(
    run: dict[str, Callable[[], list[list[str]]]], read: dict[str, list[int]], rounds: int, device: str
) -> dict[str, Measured]:
    """Measure each way to generate in alternating rounds; `read` is the list of tokens per forward of each."""
    clock = time.process_time if device == "cpu" else time.perf_counter  # answers are read on the host
    seconds: dict[str, list[float]] = {name: [] for name in run}
    last: dict[str, tuple[list[list[str]], int, int]] = {}
    for number in range(rounds + 1):
        for name in sorted(run, reverse=bool(number % 2)):
            read[name].clear()
            began = clock()
            answers = run[name]()
            seconds[name].append(clock() - began)
            last[name] = (answers, len(read[name]), sum(read[name]))
    return {name: Measured(statistics.median(values[1:]), *last[name]) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128, help="answered greedily; an eighth with 17 candidates")
    parser.add_argument("--tokens", type=int, default=128, help="of the longest answer")
    parser.add_argument("--length", type=int, default=16, help="of an answer on average, in tokens")
    parser.add_argument("--budget", type=int, default=16_384, help="tokens of a batch of ours, answers included")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the weights; texts may differ by its rounding")
    parser.add_argument("--compiled", action="store_true", help="compare compiled with uncompiled decoding")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        documents, tokenizer = read_documents(Path(scratch), settings.prompts)
    longest, new, budget = ROW - settings.tokens, settings.tokens, settings.budget
    everything = [document.input_ids[: document.n_source][-longest:].tolist() for document in documents]
    (document, ours_read), (sdpa, peer_read) = (
        ending_model(len(tokenizer), tokenizer.eos_token_id, attention, settings) for attention in ("document", "sdpa")
    )
    read = {"ours": ours_read, "file order": peer_read, "continuous": peer_read, "compiled": []}
    print(f"{date.today()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    for name, decodings in (("greedy", GREEDY), ("17 candidates", CANDIDATES))[: 1 if settings.compiled else 2]:
        sources = everything if len(decodings) == 1 else everything[: max(settings.prompts // 8, 1)]
        mean = sum(map(len, sources)) / len(sources)
        rows = max(sum(d.rows for d in decodings if d.beams == 1), *(d.rows for d in decodings), 1)
        batch = max(int(budget / (mean + new) / rows), 1)
        run: dict[str, Callable[[], list[list[str]]]] = {
            "ours": partial(ours, document, tokenizer, sources, decodings, budget=budget, new=new),
            "file order": partial(in_file_order, sdpa, tokenizer, sources, decodings, batch=batch, new=new),
        }
        if settings.compiled:
            whole, _ = ending_model(len(tokenizer), tokenizer.eos_token_id, "document", settings, counted=False)
            compiled = [replace(decoding, compile=True) for decoding in decodings]
            run.pop("file order")
            run["compiled"] = partial(ours, whole, tokenizer, sources, compiled, budget=budget, new=new)
        elif len(decodings) == 1:
            run["continuous"] = partial(continuously, sdpa, tokenizer, sources, new=new)
        taken = measured(run, read, settings.rounds, settings.device)
        own = taken["ours"]
        lengths = [len(tokenizer(texts[0])["input_ids"]) for texts in own.answers]
        print(
            f"{name}: {len(sources)} prompts of {mean:.0f} tokens on average, first answers of {min(lengths)} to "
            f"{max(lengths)} tokens, {statistics.mean(lengths):.0f} on average; batches of {batch} in file order\n"
        )
        print("| | seconds | of ours | forwards | tokens read | same first answers |\n|---|---|---|---|---|---|")
        for other, of_other in taken.items():
            same = sum(a[0] == b[0] for a, b in zip(own.answers, of_other.answers, strict=True)) / len(sources)
            print(
                f"| {other} | {of_other.seconds:.2f} | {of_other.seconds / own.seconds:.2f} | {of_other.forwards} | "
                f"{of_other.tokens:,} | {same:.1%} |"
            )
        print(flush=True)
        first, second = ("compiled", "ours") if settings.compiled else ("ours", "file order")
        print_result(
            "compiled generation against uncompiled" if settings.compiled else "generation",
            ours=round(len(sources) / taken[first].seconds, 2),
            peer=round(len(sources) / taken[second].seconds, 2),
            unit="prompts a second",
            setting=f"{name}, {len(sources)} prompts of {mean:.0f} tokens on average, answers of at most "
            f"{new}, {settings.layers} layers of width {settings.width}, {settings.device}, {settings.dtype}, "
            f"data {data_name()}",
        )


if __name__ == "__main__":
    main()
