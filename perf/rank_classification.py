"""Speed of ranking options with crosstask against lm-evaluation-harness, at equal log-likelihoods.

    python perf/rank_classification.py

Each prompt has several options of six tokens. The peer's ``loglikelihood`` reads every option with its prompt (all of
one length, so that it pads nothing); ours reads the prompt once. Models have the layouts of OPT and T5 and random
weights. Texts are words of one token each, so that lengths are exact. Rounds alternate, from text to score; scores are
compared in every round.
"""

import argparse
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from common import print_result
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from crosstask.lightning_modules.evaluation.likelihood import score_options

CANDIDATE_TOKENS, PEER_BATCH, VOCABULARY = 6, 16, 16_000
KINDS = ("encoder-decoder", "decoder-only")
MAIN = ("decoder-only", 220, 4)
"""Setting whose result is the last line that is printed."""

Questions = list[tuple[str, list[str]]]


class Setting(NamedTuple):
    """Prompts with options, and the two programs that rank them."""

    questions: Questions
    ours: Callable[[Questions], list[float]]
    peer: Callable[[Questions], list[float]]


def word_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words w0, w1, ... of one token each, with an eos token that ends an encoder's text."""
    vocabulary = {"<pad>": 0, "</s>": 1, **{f"w{number}": number + 2 for number in range(VOCABULARY - 2)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    return tokenizer


def ending_in_eos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a tokenizer that appends eos by itself, as T5's does."""
    words = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>")


def random_model(kind: str, layers: int, width: int) -> PreTrainedModel:
    torch.manual_seed(0)
    heads = width // 64
    if kind == "decoder-only":
        config: Any = OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            word_embed_proj_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            ffn_dim=4 * width,
            max_position_embeddings=2048,
            **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
        )
        return OPTForCausalLM(config).eval()
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=width,
        d_kv=64,
        d_ff=4 * width,
        num_layers=layers,
        num_heads=heads,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


def questions_of(prompt_tokens: int, options: int, count: int, rng: random.Random) -> Questions:
    def words(n: int) -> str:
        return " ".join(f"w{rng.randrange(VOCABULARY - 2)}" for _ in range(n))

    return [(words(prompt_tokens), [words(CANDIDATE_TOKENS) for _ in range(options)]) for _ in range(count)]


def asked_of(kind: str, prompt: int, options: int, given: argparse.Namespace) -> Setting:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = word_tokenizer(Path(folder))
    dtype = getattr(torch, given.dtype)
    with torch.device(given.device):
        own, theirs = (random_model(kind, given.layers, given.width).to(dtype) for _ in range(2))
    own.set_attn_implementation("document")
    causal = kind == "decoder-only"
    harness = HFLM(
        pretrained=theirs,
        tokenizer=tokenizer if causal else ending_in_eos(tokenizer),
        backend="causal" if causal else "seq2seq",
        batch_size=PEER_BATCH,
        device=given.device,
    )

    def rank_ours(questions: Questions) -> list[float]:
        prompts, groups = zip(*questions, strict=True)
        return [score for each in score_options(own, tokenizer, prompts, groups, eos=False) for score in each.sum]

    def rank_peer(questions: Questions) -> list[float]:
        requests = [
            Instance("loglikelihood", {}, (text, f" {option}" if causal else option), place)
            for place, (text, option) in enumerate((text, each) for text, group in questions for each in group)
        ]
        return [score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)]

    return Setting(questions_of(prompt, options, given.examples, random.Random(0)), rank_ours, rank_peer)


def measured(of: Setting, rounds: int, dtype: str) -> tuple[float, float]:
    """Return examples per second, ours and the peer's: medians over interleaved rounds."""
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    for rank in (of.ours, of.peer):  # warm up
        rank(of.questions[:2])
    for number in range(rounds):
        in_turn = [("ours", of.ours), ("peer", of.peer)]
        scores = {}
        for who, rank in in_turn if number % 2 else in_turn[::-1]:
            began = time.perf_counter()
            scores[who] = torch.tensor(rank(of.questions))
            speeds[who].append(len(of.questions) / (time.perf_counter() - began))
        tolerance = {"atol": 1e-3, "rtol": 1e-5} if dtype == "float32" else {"atol": 0.5, "rtol": 0.02}
        torch.testing.assert_close(scores["ours"], scores["peer"], **tolerance)
    return statistics.median(speeds["ours"]), statistics.median(speeds["peer"])


def tokens_ratio(kind: str, prompt: int, options: int) -> float:
    """Return the tokens that the peer reads for each token of ours, in encoder and decoder together."""
    own = CANDIDATE_TOKENS - 1 if kind == "decoder-only" else CANDIDATE_TOKENS + 1
    end = 0 if kind == "decoder-only" else 1
    return options * (prompt + own) / (prompt + end + options * (own - end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=8, help="prompts of each round and setting")
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken over so many")
    parser.add_argument("--layers", type=int, default=4, help="of the model, or of each of its stacks")
    parser.add_argument("--width", type=int, default=256, help="of the model, a multiple of 64")
    parser.add_argument("--prompts", type=int, nargs="*", default=[100, 220, 1000], help="tokens of the prompts")
    parser.add_argument("--options", type=int, nargs="*", default=[2, 4, 10], help="options of a prompt")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the weights; the peer's scores differ by its rounding")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)  # the peer warns about a model that it did not load itself
    title = f"Examples a second; options of {CANDIDATE_TOKENS} tokens"
    table = Table("model", "prompt", "options", "crosstask", "lm-eval", "ratio", "of tokens", title=title)
    settings = sorted(product(given.kinds, given.prompts, given.options), key=MAIN.__eq__)  # the main one last
    for kind, prompt, options in settings:
        ours, peer = measured(asked_of(kind, prompt, options, given), given.rounds, given.dtype)
        numbers = f"{ours:.2f}", f"{peer:.2f}", f"{ours / peer:.2f}", f"{tokens_ratio(kind, prompt, options):.2f}"
        table.add_row(kind, str(prompt), str(options), *numbers)
        print(kind, prompt, options, *numbers, flush=True)
    Console().print(table)
    print_result(
        "rank_classification",
        ours=round(ours, 2),
        peer=round(peer, 2),
        unit="examples/s",
        setting=f"{options} options of {CANDIDATE_TOKENS} tokens after {prompt}, {given.examples} examples, {kind} "
        f"with {given.layers} layers of {given.width}, vocabulary {VOCABULARY}, {given.dtype} on {given.device}, "
        f"{torch.get_num_threads()} CPU thread(s), lm_eval {version('lm_eval')} with batch {PEER_BATCH}",
    )


if __name__ == "__main__":
    main()
