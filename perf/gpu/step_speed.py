"""Speed of training steps: real tokens per second, model FLOPs utilization and peak memory.

    python perf/gpu/step_speed.py --size 1.3b --rows 8 --compile
    python perf/gpu/step_speed.py --size llama-1.3b --rows 8 --peer

A step reads `--batches` batches of `--rows` packed rows, clips the norm and updates all weights by fused AdamW:
bfloat16 autocast over float32 weights, or with `--masters` weights in bfloat16 with float32 masters. Documents are
random tokens of lognormal lengths, mean 220, of which 15% are targets. Weights are random; only real tokens count. A T5
reads sources in rows of `--length` columns and targets in rows of a quarter.
`--peer` trains the same model on the same documents with TRL's SFTTrainer: packing `bfd`, loss on completions, fused
AdamW and the fastest attention that transformers finds. The last line is JSON. Without CUDA there is no autocast, and
memory is that of the process (perf/step_settings.py).
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from transformers import PreTrainedModel

from crosstask.callbacks.throughput import batch_counts
from crosstask.datamodules.packing.best_fit import best_fit
from crosstask.datamodules.packing.collate import CausalRows, Seq2SeqRows
from crosstask.datamodules.schema import CausalBatch, Seq2SeqBatch, TokenizedExample
from crosstask.lightning_modules.chunked_head import ChunkedHead
from crosstask.lightning_modules.models import Network, build_model, model_config, prepare_network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.optimizer_classes import build_optimizer
from crosstask.lightning_modules.planning.flops import peak_flops, training_flops
from crosstask.lightning_modules.target_loss import target_loss

SIZES = {
    "125m": ("opt", 12, 768, 12),
    "1.3b": ("opt", 24, 2048, 32),
    "6.7b": ("opt", 32, 4096, 32),
    "llama-125m": ("llama", 12, 768, 12),
    "llama-1.3b": ("llama", 24, 2048, 16),
    "t5-220m": ("t5", 12, 768, 12),
    "small-toy": ("opt", 6, 384, 6),
    "toy": ("opt", 2, 64, 2),
    "llama-toy": ("llama", 2, 64, 2),
    "t5-toy": ("t5", 2, 64, 2),
}
"""(model type, blocks, width, heads) of each size; a T5 has as many blocks in each stack."""
VOCABULARIES = {"opt": 50_272, "llama": 32_000, "t5": 32_128}
WARM_UP = 3

Batch = CausalBatch | Seq2SeqBatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="toy")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batches", type=int, default=1, help="accumulated batches of a step")
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--recompute", default="false", help="network.gradient_checkpointing, as JSON")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--masters", action="store_true", help="weights in bfloat16, with float32 masters")
    parser.add_argument("--peer", action="store_true", help="train with TRL")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fields, vocabulary = model_fields(given.size, given.length)
    steps = packed_steps(given, vocabulary)
    empty = memory(device)["VmRSS"]
    with torch.device(device):  # random weights of 6.7B take a minute on a CPU
        model = build_model(
            model_config(fields, vocabulary=vocabulary, dropout=None),
            weights=None,
            vocabulary=vocabulary,
            attention=peer_attention(device) if given.peer else "document",
            dtype=torch.bfloat16 if given.masters else torch.float32,
        ).train()
    seconds, cost = (peer_seconds(model, steps, given),) * 2 if given.peer else own_seconds(model, steps, given)
    counts = Counter[str]()
    for step in steps[WARM_UP:]:
        for batch in step:
            counts.update(batch_counts(batch))
    counts["tokens"] -= counts["written"]  # those of the encoder, whose sums are apart from the decoder's
    flops, peak = float(training_flops(model, counts)), peak_flops(device)
    result = {
        "benchmark": "training",
        "program": "trl" if given.peer else "crosstask",
        "attention": model.config._attn_implementation,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "setting": vars(given),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_per_second": round(float(counts["tokens"] + counts["written"]) / seconds, 1),
        "seconds_per_step": round(seconds / given.steps, 4),
        "cost_per_step": round(cost / given.steps, 4),
        "utilization": round(flops / seconds / peak, 4) if peak else None,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if device.type == "cuda" else None,
        "peak_mib": round((memory(device)["VmHWM"] - empty) / 2**20, 1),
    }
    print(json.dumps(result))


def model_fields(size: str, length: int) -> tuple[dict[str, Any], int]:
    """Return the fields of the model's configuration, and the size of its vocabulary."""
    kind, layers, width, heads = SIZES[size]
    vocabulary = 1_000 if size.endswith("toy") else VOCABULARIES[kind]
    if kind == "t5":
        shape = {"d_model": width, "d_kv": width // heads, "d_ff": 4 * width, "num_layers": layers, "num_heads": heads}
        return {"model_type": kind, "dropout_rate": 0.0, "decoder_start_token_id": 0} | shape, vocabulary
    fields = {"model_type": kind, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    fields |= {"max_position_embeddings": length, "use_cache": False}
    if kind == "opt":
        return fields | {"word_embed_proj_dim": width, "ffn_dim": 4 * width, "dropout": 0.0}, vocabulary
    fields |= {
        "num_key_value_heads": heads,
        "intermediate_size": width * 8 // 3 // 64 * 64,
        "tie_word_embeddings": True,
    }
    return fields, vocabulary


def packed_steps(given: argparse.Namespace, vocabulary: int) -> list[list[Batch]]:
    """Return the batches of each step, warm-up included."""
    rng = np.random.default_rng(0)
    wanted = (WARM_UP + given.steps) * given.batches * given.rows
    lengths = np.clip(rng.lognormal(np.log(180), 0.65, wanted * (given.length // 100 + 2)), 16, given.length).astype(
        int
    )
    documents = [
        TokenizedExample(rng.integers(4, vocabulary, n), n - max(round(0.15 * n), 1)) for n in lengths.tolist()
    ]
    sources = np.array([document.n_source for document in documents])
    pair = given.size.startswith("t5")
    kind = Seq2SeqRows(given.length, given.length // 4, 1) if pair else CausalRows(given.length, pad_token_id=1)
    rows = best_fit(kind.sizes(lengths, sources), given.length, rng)
    full = [[documents[place] for place in rows.row(number)] for number in range(wanted)]
    batches = [kind.collate(full[first : first + given.rows], 1) for first in range(0, wanted, given.rows)]
    return [batches[first : first + given.batches] for first in range(0, len(batches), given.batches)]


def memory(device: torch.device) -> dict[str, int]:
    """Return the bytes in use (VmRSS) and their peak (VmHWM): of torch's allocator on CUDA, else of the process."""
    if device.type == "cuda":
        return {"VmRSS": torch.cuda.memory_allocated(), "VmHWM": torch.cuda.max_memory_allocated()}
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(size.split()[0]) * 1024 for name, size in fields.items()}


def reset_peak(device: torch.device) -> None:
    """Reset the peak of ``memory`` to the memory in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def own_seconds(model: PreTrainedModel, steps: list[list[Batch]], given: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds of the measured steps, and again their seconds on CUDA, or processor seconds without CUDA."""
    prepare_network(model, Network(gradient_checkpointing=json.loads(given.recompute), compile=given.compile))
    cuda = model.device.type == "cuda"
    settings = Optimization(learning_rate=1e-5, betas=(0.9, 0.95), fused=cuda, master_weights=given.masters)
    optimizer, mixed = build_optimizer(settings, model), cuda and not given.masters
    head = ChunkedHead(model)
    began = used = 0.0
    for number, step in enumerate(steps):
        if number == WARM_UP:
            began, used = now(cuda), time.process_time()
            reset_peak(model.device)
        targets = sum(batch_counts(batch)["targets"] for batch in step)
        for batch in step:
            moved = move_data_to_device(batch, model.device)
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=mixed):
                loss = target_loss(model, moved, head=head).sum / targets
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = now(cuda) - began
    return seconds, seconds if cuda else time.process_time() - used


def now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def peer_attention(device: torch.device) -> str:
    """Return the name of FlashAttention if it is installed, else of torch's fused attention."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def peer_seconds(model: PreTrainedModel, steps: list[list[Batch]], given: argparse.Namespace) -> float:
    """Return the seconds of the measured steps in TRL, which packs the same documents again."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    cuda = model.device.type == "cuda"
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(now(cuda))

    documents = [document for step in steps for batch in step for document in unpacked(batch)]
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            packing=True,
            packing_strategy="bfd",
            max_length=given.length,
            per_device_train_batch_size=given.rows,
            gradient_accumulation_steps=given.batches,
            max_steps=len(steps),
            bf16=cuda,
            use_cpu=not cuda,
            optim="adamw_torch_fused" if cuda else "adamw_torch",
            gradient_checkpointing=given.recompute == "true",
            torch_compile=given.compile,
            completion_only_loss=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=cuda,
        )
        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(documents),
            processing_class=words(model.config.vocab_size),
            callbacks=[Clock()],
        )
        trainer.train()
    return times[-1] - times[WARM_UP - 1]


def unpacked(batch: Batch) -> list[dict[str, list[int]]]:
    """Return the documents of a batch without padding, as TRL reads them: token ids, and 1 for target tokens."""
    ids, trained = batch.input_ids.flatten().tolist(), (batch.targets.flatten() >= 0).tolist()
    bounds, documents = batch.offsets.tolist(), []
    for start, end in pairwise(bounds):
        if any(trained[start:end]):
            mask = [0, *map(int, trained[start : end - 1])]  # a column's target is the next token
            documents.append({"input_ids": ids[start:end], "completion_mask": mask})
    return documents


def words(vocabulary: int) -> Any:
    """Return a tokenizer of `vocabulary` words; TRL needs one although the documents are token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    table = {"<pad>": 0, "</s>": 1, **{f"w{number}": number for number in range(2, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


if __name__ == "__main__":
    main()
