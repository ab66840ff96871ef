"""Speed of scoring pairs with crosstask against sentence-transformers' CrossEncoder, at equal scores.

    python perf/scoring.py                      generated text
    CROSSTASK_DATA=folder python perf/scoring.py          instances of Super-NaturalInstructions, in superni/tasks
    python perf/scoring.py --layers 12 --pairs 510 --rounds 2 --distinct --padded_rounds 0    12 layers in 10 minutes

Every instruction has 17 different responses, as in Cappy's evaluation (arXiv 2311.06720): its reference and references
of other instances of its task. No pair exceeds 512 tokens, so that nothing is truncated. The model has RoBERTa's layout
and random weights; rounds alternate, from text to score. Prints comparisons with every pair padded to 512 tokens, as in
Cappy's released program (on a twentieth of the pairs); with as many repeated responses as the 17 samples of a model
(`--distinct`: 0.42 for a half-trained model of a million parameters on the embedded benchmark, 0.86 for SmolLM2-135M on
real tasks); and, last, without repeated ones. On a CPU, processor time is measured, which excludes other programs.
`expected` in the last line is what arithmetic alone gives: the columns that the peer's batches fill with padding, and
the last layer at first tokens alone.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from sentence_transformers import CrossEncoder as PeerCrossEncoder
from sentence_transformers import __version__ as peer_version
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification
from transformers.utils import is_flash_attn_2_available

from crosstask.lightning_modules.scoring.cross_encoder import CrossEncoder

RESPONSES, LONGEST, PEER_BATCH = 17, 512, 32

Pairs = list[tuple[str, str]]


def real_candidates(folder: Path, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Yield (instruction, responses) of an instance of each task that has enough different references."""
    paths = sorted(folder.glob("*.json"))
    rng.shuffle(paths)
    for path in paths:
        task = json.loads(path.read_text())
        instances = task["Instances"]
        references = list(dict.fromkeys(instance["output"][0].strip() for instance in instances))
        if len(references) >= RESPONSES:
            instance = rng.choice(instances)
            own = instance["output"][0].strip()
            others = rng.sample([reference for reference in references if reference != own], RESPONSES - 1)
            yield f"{task['Definition'][0]}\nInput: {instance['input']}\nOutput:", [own, *others]


def generated_candidates(rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Yield instructions of 20 to 300 words with responses of 1 to 40 words, of which few are frequent."""
    vocabulary = ["".join(rng.choices("etaoinsrhldcum", k=rng.randint(2, 10))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]

    def words(count: int) -> str:
        return " ".join(rng.choices(vocabulary, weights, k=count))

    while True:
        responses = {f"{words(rng.choice([1, 2, 3, 8, 20, 40]))} {number}" for number in range(RESPONSES)}
        yield words(min(int(rng.lognormvariate(4.3, 0.6)) + 20, 300)), sorted(responses)


def write_model(folder: Path, texts: list[str], layers: int, width: int) -> PreTrainedTokenizerFast:
    """Write a scorer with random weights and a byte-level BPE tokenizer of these texts, and return the tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=16_000,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        model_max_length=LONGEST,
    )
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        max_position_embeddings=LONGEST + 2,
        pad_token_id=1,
    )
    config.num_labels = 1
    torch.manual_seed(0)
    model = RobertaForSequenceClassification(config)
    with torch.no_grad():  # fresh weights give nearly equal scores, and equal scores would prove little
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def short_enough(groups: Iterator[tuple[str, list[str]]], tokenizer: PreTrainedTokenizerFast, count: int) -> Pairs:
    """Return the first `count` pairs, without instructions that have a pair that is too long."""
    pairs: Pairs = []
    for instruction, responses in groups:
        ids = tokenizer([instruction] * len(responses), responses, verbose=False)["input_ids"]
        if max(map(len, ids)) <= LONGEST:
            pairs += [(instruction, response) for response in responses]
        if len(pairs) >= count:
            break
    return pairs[:count]


def timed(score: Callable[[Pairs], torch.Tensor], pairs: Pairs, device: str) -> tuple[torch.Tensor, float]:
    """Return the scores, and the pairs per second; on a CPU, per second of processor time."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    scores = score(pairs)
    return scores, len(pairs) / (clock() - began)


def expected_ratio(pairs: Pairs, tokenizer: PreTrainedTokenizerFast, layers: int) -> float:
    """Return the peer's operations over ours: padding of batches sorted by length, repeated pairs, and the last layer.

    The products of a layer take 12 d^2 operations a token, of which first tokens alone leave keys and values, 2 d^2.
    """

    def lengths(some: Pairs) -> list[int]:
        return sorted(map(len, tokenizer(*map(list, zip(*some, strict=True)), verbose=False)["input_ids"]))

    theirs, ours = lengths(pairs), sum(lengths(list(set(pairs))))
    batches = [theirs[::-1][start : start + PEER_BATCH] for start in range(0, len(theirs), PEER_BATCH)]
    return sum(batch[0] * len(batch) for batch in batches) / ours * layers / (layers - 10 / 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs scored in each round")
    parser.add_argument("--rounds", type=int, default=5, help="medians are taken over so many")
    parser.add_argument(
        "--distinct", type=float, nargs="*", default=[0.42, 0.86], help="shares of different responses among samples"
    )
    parser.add_argument("--layers", type=int, default=4, help="of the encoder")
    parser.add_argument("--padded_rounds", type=int, default=1, help="of pairs padded to 512 tokens; 0 for none")
    parser.add_argument("--width", type=int, default=256, help="of the encoder, a multiple of 64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the weights; scores may differ by its rounding")
    settings = parser.parse_args()
    transformers.logging.set_verbosity_error()
    rng = random.Random(0)
    data = os.environ.get("CROSSTASK_DATA")
    tasks = Path(data or "") / "superni" / "tasks"
    if data and not any(tasks.glob("*.json")):
        raise SystemExit(f"no task files in {tasks}")
    source = real_candidates(tasks, rng) if data else generated_candidates(rng)
    drawn = [next(source) for _ in range(settings.pairs // RESPONSES * 2 + 2)]
    with tempfile.TemporaryDirectory() as folder:
        texts = [text for instruction, responses in drawn for text in (instruction, *responses)]
        tokenizer = write_model(Path(folder), texts, settings.layers, settings.width)
        pairs = short_enough(iter(drawn), tokenizer, settings.pairs)
        dtype = getattr(torch, settings.dtype)
        ours = CrossEncoder.from_pretrained(folder, device=settings.device, dtype=dtype)
        peer = PeerCrossEncoder(
            folder,
            device=settings.device,
            max_length=LONGEST,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"dtype": dtype, "attn_implementation": fastest_attention(settings.device)},
        )

    def score_ours(pairs: Pairs) -> torch.Tensor:
        return ours.score(*zip(*pairs, strict=True))

    def score_peer(pairs: Pairs) -> torch.Tensor:
        return torch.from_numpy(peer.predict(pairs, batch_size=PEER_BATCH, show_progress_bar=False))

    def score_padded(pairs: Pairs) -> torch.Tensor:
        return padded_scores(peer.model, tokenizer, pairs)

    text, padded = "Super-NaturalInstructions" if data else "generated text", settings.padded_rounds
    few = pairs[: max(settings.pairs // 20, PEER_BATCH)]
    repeated = [with_repetitions(pairs, share, rng) for share in settings.distinct]
    sentence_transformers = f"sentence-transformers {peer_version}, batch {PEER_BATCH}"
    for name, scored, theirs, rounds in (
        *([(f"transformers, padded to {LONGEST}, batch {PEER_BATCH}", few, score_padded, padded)] if padded else []),
        *((sentence_transformers, own, score_peer, settings.rounds) for own in repeated),
        (sentence_transformers, pairs, score_peer, settings.rounds),
    ):
        speeds, scores = compare(scored, score_ours, theirs, rounds, settings)
        expected = expected_ratio(scored, tokenizer, settings.layers) if theirs is score_peer else None
        report(settings, name, scored, scores, speeds, text, expected)


def fastest_attention(device: str) -> str:
    """Return the name of FlashAttention if it is installed, else of torch's fused attention."""
    return "flash_attention_2" if device == "cuda" and is_flash_attn_2_available() else "sdpa"


def padded_scores(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, pairs: Pairs) -> torch.Tensor:
    """Return the scores of batches in file order, padded to the longest allowed length."""
    scores = []
    with torch.inference_mode():
        for start in range(0, len(pairs), PEER_BATCH):
            columns = zip(*pairs[start : start + PEER_BATCH], strict=True)
            inputs = tokenizer(
                *map(list, columns), padding="max_length", max_length=LONGEST, truncation=True, return_tensors="pt"
            ).to(model.device)
            scores.append(model(inputs.input_ids, inputs.attention_mask).logits[:, 0].float().cpu())
    return torch.cat(scores)


def with_repetitions(pairs: Pairs, distinct: float, rng: random.Random) -> Pairs:
    """Return as many pairs, of which the share `distinct` is different; the others repeat earlier responses."""
    by_instruction: dict[str, list[str]] = {}
    for instruction, response in pairs:
        by_instruction.setdefault(instruction, []).append(response)
    repeated = []
    for instruction, responses in by_instruction.items():
        kept = responses[: max(round(distinct * len(responses)), 1)]
        more = rng.choices(kept, k=len(responses) - len(kept))
        repeated += [(instruction, response) for response in [*kept, *more]]
    return repeated


def compare(
    pairs: Pairs,
    score_ours: Callable[[Pairs], torch.Tensor],
    score_peer: Callable[[Pairs], torch.Tensor],
    rounds: int,
    settings: argparse.Namespace,
) -> tuple[dict[str, float], torch.Tensor]:
    """Return the median speeds of both in alternating rounds, and the scores, which must agree."""
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    for score in (score_ours, score_peer):  # warm up
        score(pairs[: 2 * PEER_BATCH])
    for number in range(rounds):
        in_turn = [("ours", score_ours), ("peer", score_peer)]
        scores = {}
        for who, score in in_turn if number % 2 else in_turn[::-1]:
            scores[who], speed = timed(score, pairs, settings.device)
            speeds[who].append(speed)
        tolerance = 1e-4 if settings.dtype == "float32" else 0.1
        torch.testing.assert_close(scores["ours"].float(), scores["peer"].float(), atol=tolerance, rtol=tolerance)
    return {who: statistics.median(of) for who, of in speeds.items()}, scores["ours"]


def report(
    settings: argparse.Namespace,
    peer: str,
    pairs: Pairs,
    scores: torch.Tensor,
    speed: dict[str, float],
    text: str,
    expected: float | None,
) -> None:
    different = len(set(pairs))
    table = Table(
        "", "pairs a second", title=f"{len(pairs)} pairs, {different} different, {text}", title_justify="left"
    )
    table.add_row("crosstask", f"{speed['ours']:,.1f}")
    table.add_row(peer, f"{speed['peer']:,.1f}")
    Console().print(table)
    print(f"scores agree; their standard deviation is {scores.std():.3f}")
    result = {
        "benchmark": "scoring",
        "ours": round(speed["ours"], 1),
        "peer": round(speed["peer"], 1),
        "ratio": round(speed["ours"] / speed["peer"], 2),
        "expected": expected and round(expected, 2),
        "unit": "pairs/s",
        "setting": f"{text}, {len(pairs)} pairs, {different} of them different, of {len({i for i, _ in pairs})} "
        f"instructions, RoBERTa with {settings.layers} layers of {settings.width}, {settings.dtype} on "
        f"{settings.device}, {torch.get_num_threads()} CPU thread(s), {peer}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
