"""Throughput: what is counted, and the operations of a model."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
)

from crosstask.callbacks.throughput import Throughput, batch_counts
from crosstask.callbacks.token_counts import language_rows
from crosstask.datamodules.bilevel.bilevel_stream import BilevelBatch
from crosstask.datamodules.bilevel.level_rows import InnerBatch
from crosstask.datamodules.schema import CausalBatch, Seq2SeqBatch
from crosstask.lightning_modules.planning.flops import (
    attention_width,
    named_peak,
    peak_flops,
    training_flops,
    weight_flops,
)


def test_padding_is_not_work() -> None:
    batch = CausalBatch(
        input_ids=torch.zeros(1, 8, dtype=torch.long),
        targets=torch.tensor([[-100, 3, 1, -100, 5, 1, -100, -100]]),
        position_ids=torch.zeros(1, 8, dtype=torch.long),
        offsets=torch.tensor([0, 4, 7, 8]),
        step_targets=4,
        n_documents=2,
        n_tokens=7,
        target_places=torch.tensor([1, 2, 4, 5]),
    )
    counts = batch_counts(batch)
    assert counts == {"examples": 2, "tokens": 7, "targets": 4, "columns": 8, "squares": 16 + 9}


def test_counting_waits_for_no_device() -> None:
    """Tensors without data: whatever had to be read before the measurement is due would fail."""
    ids, offsets = torch.zeros(2, 4, dtype=torch.long, device="meta"), torch.zeros(4, dtype=torch.int32, device="meta")
    batch_counts(CausalBatch(ids, ids, ids, offsets, step_targets=4, n_documents=2, n_tokens=7, target_places=ids))
    batch_counts(Seq2SeqBatch(ids, offsets, ids, offsets, step_targets=4, n_documents=2, n_tokens=7, target_places=ids))
    with pytest.raises(RuntimeError):
        ids.nonzero().tolist()  # so the calls above mean something


def test_both_sides_of_a_document_are_counted() -> None:
    """Documents of (3, 2) and (2, 3) tokens, then padding."""
    batch = Seq2SeqBatch(
        input_ids=torch.zeros(1, 8, dtype=torch.long),
        offsets=torch.tensor([0, 3, 5, 8]),
        targets=torch.tensor([[4, 1, 5, 6, 1, -100]]),
        target_offsets=torch.tensor([0, 2, 5, 6]),
        step_targets=5,
        n_documents=2,
        n_tokens=10,
        target_places=torch.arange(5),
    )
    counts = batch_counts(batch)
    assert (counts["squares"], counts["written_squares"], counts["products"]) == (9 + 4, 4 + 9, 6 + 6)
    assert (counts["tokens"], counts["written"], counts["columns"]) == (10, 5, 14)


def test_both_levels_are_read() -> None:
    first, second, third = (
        CausalBatch(*(torch.zeros(1, 1),) * 4, 1, n_documents=1, n_tokens=number, target_places=torch.zeros(1))
        for number in (1, 2, 3)
    )
    inner, curvature = (InnerBatch(rows, inputs=None) for rows in (first, second))  # type: ignore[arg-type]
    assert language_rows(BilevelBatch(inner)) == [first]
    assert language_rows(BilevelBatch(inner, third, curvature)) == [first, second, third]


def counted(model: PreTrainedModel, **inputs: torch.Tensor) -> int:
    """Matrix products of forward and backward, as torch counts them."""
    model = model.train()
    with FlopCounterMode(display=False) as counter:
        model(**inputs, use_cache=False).logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", [T5Config, BartConfig])
def test_an_encoder_decoder_model_computes_each_stack_for_its_own_tokens(kind: type[PreTrainedConfig]) -> None:
    """As torch counts, which takes the masked half of causal attention for work, too."""
    fields = {"d_kv": 32, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
    if kind is BartConfig:
        stacks = ("encoder", "decoder")
        fields = {f"{stack}_layers": number for stack, number in zip(stacks, (3, 2), strict=True)}
        fields |= {
            f"{stack}_{name}": size for stack in stacks for name, size in {"attention_heads": 4, "ffn_dim": 128}.items()
        }
    config = kind(vocab_size=100, d_model=64, d_ff=128, attn_implementation="eager", **fields)
    model = AutoModelForSeq2SeqLM.from_config(config)
    read, written = 96, 16
    ids = torch.zeros(1, read + written, dtype=torch.long)
    found = counted(model, input_ids=ids[:, :read], decoder_input_ids=ids[:, read:])
    counts = {"tokens": read, "targets": written, "written": written}
    counts |= {"squares": read**2, "written_squares": written**2, "products": read * written}
    masked = 6 * 2 * attention_width(config) * written**2
    assert training_flops(model, counts) + masked == pytest.approx(found, rel=0.02)  # biases and norms


def test_a_decoders_operations_are_those_that_torch_counts() -> None:
    """With heads that together are wider than the model."""
    config = LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, attn_implementation="eager",
    )  # fmt: skip
    model, length = LlamaForCausalLM(config), 64
    counts = {"tokens": length, "targets": length, "squares": length**2}
    found = counted(model, input_ids=torch.zeros(1, length, dtype=torch.long))
    assert training_flops(model, counts) + 6 * 2 * 128 * length**2 == pytest.approx(found, rel=0.02)


def test_a_parameter_that_zero_3_has_partitioned_counts_whole() -> None:
    config = LlamaConfig(
        vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    whole = weight_flops(model)
    for parameter in model.parameters():
        parameter.ds_numel = parameter.numel()  # type: ignore[attr-defined]
        parameter.data = torch.empty(0)
    assert weight_flops(model) == whole


def test_those_who_share_a_replica_share_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of one replica: each does half, and is compared with a device of its own."""
    config = LlamaConfig(
        vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    module = SimpleNamespace(device=torch.device("cpu"), model=LlamaForCausalLM(config), logged={})
    module.log = lambda name, value, **_: module.logged.update({name: value})
    monkeypatch.setattr("crosstask.callbacks.throughput.peak_flops", lambda device: 1e9)
    callback = Throughput()
    callback._counts.update({"tokens": 10, "targets": 3, "squares": 50})
    shared = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": 2, "rank": 0})
    trainer = SimpleNamespace(strategy=shared, accumulate_grad_batches=1, world_size=4)
    callback._log_utilization(trainer, module, 2.0)  # type: ignore[arg-type]
    expected = training_flops(module.model, callback._counts) / 2 / 2.0 / 1e9
    assert module.logged == {"throughput/model_flops_utilization": pytest.approx(expected)}


def test_the_operations_of_a_model_are_those_of_its_matrices() -> None:
    config = LlamaConfig(
        vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    blocks = 4 * 8 * 8 + 3 * 8 * 16 + 3 * 8  # attention, MLP, three norms
    counts = {"tokens": 10, "targets": 3, "squares": 50}
    expected = 6 * (blocks * 10 + 100 * 8 * 3) + 6 * 1 * 8 * 50
    assert training_flops(LlamaForCausalLM(config), counts) == expected


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA L40S", 362),
    ],
)
def test_a_device_has_the_dense_peak_of_its_own_form(name: str, teraflops: float) -> None:
    assert named_peak(name) == teraflops * 1e12


def test_an_unknown_device_has_no_peak_rather_than_a_guessed_one() -> None:
    assert peak_flops(torch.device("cpu")) is None


def test_an_impossible_interval_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1 optimizer step"):
        Throughput(every=0)
