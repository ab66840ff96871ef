"""Generation with crosstask against plain ``generate`` on padded batches in the order of the file.

    python perf/generation.py [--prompts 128] [--rounds 3]

Measures one greedy answer to each prompt, and the 17 responses of Cappy's evaluation (arXiv 2311.06720: four each by
sampling, temperature 0.9, top-k 40 and nucleus 0.95, and a beam of 4), for which the peer calls ``generate`` once per
decoding with ``num_return_sequences``. The peer's batches hold as many sequences as ours on average. The model has
random weights and generates to the full length; rounds alternate. Texts are real ones if CROSSTASK_DATA is set.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import print_result
from training import MODEL, ROW, read_documents
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from crosstask.datamodules.evaluation.loaders import pad_prompts
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.evaluation.generation import Decoding, generate
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
    """The peer's texts of each prompt, all decodings one after the other."""
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
            out = model.generate(ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]
            found = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
            for row, text in enumerate(found):
                texts[start + row // decoding.samples].append(text.strip())
    return texts


def measured(run: dict[str, Callable[[], list[list[str]]]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds and the last answers of both, in alternating rounds; the first one warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in run}
    answers: dict[str, list[list[str]]] = {}
    for number in range(rounds + 1):
        for name in sorted(run, reverse=bool(number % 2)):
            began = time.perf_counter()
            answers[name] = run[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128, help="answered greedily; an eighth with 17 candidates")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--budget", type=int, default=16_384, help="tokens of a batch of ours, answers included")
    parser.add_argument("--rounds", type=int, default=3)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        documents, _, vocabulary = read_documents(Path(scratch), settings.prompts)
        tokenizer = load_tokenizer(str(Path(scratch) / "tokenizer"))
    longest = ROW - settings.tokens
    sources = [document.input_ids[: document.n_source][-longest:].tolist() for document in documents]
    torch.manual_seed(0)
    config = model_config(MODEL, vocabulary=vocabulary, dropout=None)
    model = build_model(config, weights=None, vocabulary=vocabulary, attention="sdpa", dtype=torch.float32).eval()
    everything = sources
    for name, decodings in (("17 candidates", CANDIDATES), ("greedy", GREEDY)):
        sources = everything if len(decodings) == 1 else everything[: max(settings.prompts // 8, 1)]
        mean = sum(map(len, sources)) / len(sources) + settings.tokens
        rows = max(sum(d.rows for d in decodings if d.beams == 1), *(d.rows for d in decodings), 1)
        batch = max(int(settings.budget / mean / rows), 1)

        def ours(sources: Sources = sources, decodings: list[Decoding] = decodings) -> list[list[str]]:
            options = {"max_new_tokens": settings.tokens, "budget": settings.budget, "seeds": range(len(sources))}
            found = sorted(generate(model, tokenizer, sources, decodings, **options))  # type: ignore[arg-type]
            return [[text for texts in answers for text in texts] for _, answers in found]

        def peer(
            sources: Sources = sources, decodings: list[Decoding] = decodings, batch: int = batch
        ) -> list[list[str]]:
            return in_file_order(model, tokenizer, sources, decodings, batch=batch, new=settings.tokens)

        seconds, answers = measured({"ours": ours, "peer": peer}, settings.rounds)
        same = sum(a[0] == b[0] for a, b in zip(answers["ours"], answers["peer"], strict=True)) / len(sources)
        print(f"{name}: {same:.1%} of first answers (greedy or beam) are the same text; the peer's batch is {batch}")
        print_result(
            "generation",
            ours=round(len(sources) / seconds["ours"], 2),
            peer=round(len(sources) / seconds["peer"], 2),
            unit="prompts/s",
            setting=f"{name}, {len(sources)} prompts of {mean - settings.tokens:.0f} tokens on average, answers of "
            f"{settings.tokens}, {torch.get_num_threads()} CPU thread(s), fp32, "
            f"data {os.environ.get('CROSSTASK_DATA', 'toybench')}",
        )


if __name__ == "__main__":
    main()
