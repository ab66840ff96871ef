"""Memory of a step on a device, by known answers."""

from functools import partial

import pytest
import torch
from planned_models import BLOCKS, PARAMETERS, SHAPE, VOCABULARY, WIDTH, build, memory, opt, recompute, step_memory
from transformers import PreTrainedModel

from crosstask.lightning_modules.adapters import LoRA, add_adapters
from crosstask.lightning_modules.planning.memory import (
    Finish,
    Kind,
    Layout,
    Precision,
    head_memory,
    step_phases,
)
from crosstask.lightning_modules.planning.phases import Phase
from crosstask.lightning_modules.planning.resource_plan import cast_bytes


def test_states_of_one_device_are_sixteen_bytes_a_parameter() -> None:
    found = memory(Layout(), SHAPE._replace(accumulated=True))
    assert (found.weights, found.gradients, found.optimizer) == (4 * PARAMETERS, 4 * PARAMETERS, 8 * PARAMETERS)
    assert memory(Layout("ddp", 2), SHAPE._replace(accumulated=True)).gathered == 4 * PARAMETERS


def test_masters_add_four_bytes_to_weights_of_two() -> None:
    """2 + 2 + 4 + 8 bytes a parameter, where bf16-mixed has 4 + 4 + 8 and casts of 2."""
    low = partial(step_memory, lambda dtype: build(opt(), torch.bfloat16), lambda model: None)
    found = low(Layout(master_weights=True), SHAPE._replace(accumulated=True))
    assert found[:3] == (2 * PARAMETERS, 2 * PARAMETERS, 12 * PARAMETERS)
    mixed = memory(Layout(precision="bf16-mixed"), SHAPE._replace(accumulated=True))
    assert found.total < mixed.total


def test_masters_are_converted_once_a_step_and_autocast_once_a_batch() -> None:
    """Six bytes a weight for each conversion: to half precision, and of the gradient back."""
    low, wide = build(opt(), torch.bfloat16), build(opt())
    masters = Layout(master_weights=True)
    assert cast_bytes(low, masters, batches=8, recomputed=1.0) == 12 * PARAMETERS
    assert cast_bytes(wide, Layout(precision="bf16-mixed"), batches=8, recomputed=0.5) == 8 * 15 * PARAMETERS
    assert cast_bytes(wide, Layout(), batches=8, recomputed=0.0) == 0


def test_adapters_alone_have_gradients_and_moments() -> None:
    """Two bytes for each frozen weight; 4 + 4 + 8 for each of an adapter's, r * (in + out) beside every fc1."""

    def adapted(dtype: torch.dtype | None) -> PreTrainedModel:
        model = build(opt(), torch.bfloat16)
        add_adapters(model, LoRA(r=2, target_modules=["fc1"]))
        return model

    trained = BLOCKS * 2 * (WIDTH + 4 * WIDTH)
    layout = Layout("single", precision="bf16-mixed")
    found = step_memory(adapted, lambda model: None, layout, SHAPE._replace(accumulated=True))
    assert found[:3] == (2 * PARAMETERS + 4 * trained, 4 * trained, 8 * trained)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_divides_what_its_stage_says(stage: int) -> None:
    """ZeRO, arXiv 1910.02054, figure 1: 2 + 2 + 12 bytes a parameter in mixed precision, over 64 devices."""
    found = memory(Layout(f"zero_{stage}", 64, precision="bf16-mixed"), SHAPE._replace(rows=64))  # type: ignore[arg-type]
    states = {1: (2, 2), 2: (2, 2 / 64), 3: (2 / 64, 2 / 64)}[stage]
    assert found.weights == pytest.approx(states[0] * PARAMETERS, abs=1)
    assert found.gradients == pytest.approx(states[1] * PARAMETERS, abs=1)
    assert found.optimizer == pytest.approx(12 / 64 * PARAMETERS, abs=1)


def test_states_of_zero_3_are_deepspeeds_own_estimate() -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    largest = 12 * WIDTH**2 + 13 * WIDTH
    _, expected, _ = estimate_zero3_model_states_mem_needs(PARAMETERS, largest, 2, 1, cpu_offload=False)
    found = memory(Layout("zero_3", 2, precision="16-mixed"), SHAPE._replace(rows=1, columns=1, targets=1))
    assert found.total == pytest.approx(expected, rel=0.02)


def test_sharding_divides_all_states_and_gathers_a_block() -> None:
    whole, part = (memory(Layout(kind, 4), SHAPE) for kind in ("single", "sharded"))
    assert part.weights == pytest.approx(PARAMETERS, rel=0.01)
    assert part.optimizer == 2 * part.weights
    assert part.gathered > 4 * VOCABULARY * WIDTH / 4
    assert part.total < whole.total
    hybrid = memory(Layout("sharded", 4, copies=2), SHAPE)
    assert hybrid.weights == pytest.approx(2 * part.weights, rel=0.01)


def test_tensor_parallelism_divides_blocks_activations() -> None:
    shape = SHAPE._replace(rows=16)
    shards, halves = (memory(Layout("sharded", 4, tensor_parallel=size), shape) for size in (1, 2))
    assert halves.weights == pytest.approx(shards.weights, rel=0.03)  # biases and norms are whole on both
    assert halves.activations < 0.8 * shards.activations


@pytest.mark.parametrize("size", [2, 4])
def test_sequence_parallelism_divides_what_blocks_keep_between_matrices(size: int) -> None:
    """In hidden states of all rows, a block keeps six between its matrices and eight within attention and feed-forward.

    Those between are the inputs of two norms, of attention and of feed-forward, which are whole either way, and two of
    dropout; recomputed, a block keeps its input alone.
    """
    shape = SHAPE._replace(rows=16)

    def kept(sequence: bool, finish: Finish) -> float:
        layout = Layout("sharded", size, tensor_parallel=size, sequence_parallel=sequence)
        held = [
            step_phases(partial(build, opt(blocks)), finish, layout, shape)[Phase("forward", -1)].activations
            for blocks in (2, 3)
        ]
        return (held[1] - held[0]) / (4 * shape.rows * shape.columns * WIDTH)

    assert kept(False, lambda model: None) == pytest.approx(6 + 8 / size, abs=0.2)
    assert kept(True, lambda model: None) == pytest.approx(2 + 4 / size + 8 / size, abs=0.2)
    assert [kept(sequence, recompute) for sequence in (False, True)] == pytest.approx([1, 1 / size])


def test_activations_grow_with_rows_and_shrink_when_recomputed() -> None:
    few, many = (memory(Layout(), SHAPE._replace(rows=rows)).activations for rows in (8, 16))
    assert many == pytest.approx(2 * few, rel=0.05)
    deeper, shape = partial(build, opt(3)), SHAPE._replace(rows=16)  # of two blocks, one is alive when recomputed
    kept = step_memory(deeper, lambda model: None, Layout(), shape).activations
    assert step_memory(deeper, recompute, Layout(), shape).activations < 0.6 * kept


def test_half_precision_copies_of_weights_are_freed_with_their_block() -> None:
    """Autocast casts float32 weights, and Lightning's plugin caches no copy: recomputation frees them with each block.

    So each block adds its input, 4 bytes a number, to what the last one's forward pass holds, and not its weights.
    """

    def activations(blocks: int) -> int:
        layout = Layout("sharded", 2, precision="bf16-mixed")
        phases = step_phases(partial(build, opt(blocks)), recompute, layout, SHAPE)
        return phases[Phase("forward", -1)].activations

    inputs, copies = 4 * SHAPE.rows * SHAPE.columns * WIDTH, 2 * 12 * WIDTH**2
    assert (activations(4) - activations(2)) / 2 == pytest.approx(inputs, abs=copies / 10)


def test_gradients_that_wait_for_the_last_batch_are_whole() -> None:
    shape = SHAPE._replace(accumulated=True)
    shards, waiting = (memory(Layout("sharded", 4, reduce_once=once), shape) for once in (False, True))
    assert waiting.gradients == pytest.approx(4 * PARAMETERS, rel=0.02)
    assert shards.gradients == pytest.approx(PARAMETERS, rel=0.02)
    assert waiting._replace(gradients=0) == shards._replace(gradients=0)


def test_what_lies_in_the_hosts_memory_is_not_on_the_device() -> None:
    """DeepSpeed's own estimates: 4 bytes for each parameter of the largest block, and 2 for each of its part."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    largest, shape = 12 * WIDTH**2 + 13 * WIDTH, SHAPE._replace(rows=1, columns=1, targets=1)
    for weights in (False, True):
        layout = Layout("zero_3", 2, precision="16-mixed", offload=True, offload_weights=weights)
        found = memory(layout, shape)
        _, expected, _ = estimate_zero3_model_states_mem_needs(PARAMETERS, largest, 2, 1, True, weights)
        assert found.total - found.activations == pytest.approx(expected, abs=2)
    second = memory(Layout("zero_2", 2, precision="16-mixed", offload=True), shape)
    assert second[:4] == (2 * PARAMETERS, 0, 0, 0)


@pytest.mark.parametrize(
    ("kind", "precision", "size"),
    [
        ("single", "64-true", 8),
        ("single", "32-true", 4),
        ("single", "16-true", 2),
        ("single", "bf16-true", 2),
        ("sharded", "64-true", 8),
        ("sharded", "bf16-true", 2),
    ],
)
def test_weights_are_of_the_precisions_type(kind: Kind, precision: Precision, size: int) -> None:
    found = memory(Layout(kind, 1, precision=precision), SHAPE._replace(accumulated=True))
    assert found[:3] == (size * PARAMETERS, size * PARAMETERS, 2 * size * PARAMETERS)


def test_a_bucket_of_gradients_is_held_whatever_the_model() -> None:
    without, within = (memory(Layout("zero_3", 2, reduce_bucket=size), SHAPE).gathered for size in (0, 1000))
    assert within - without == 4 * 1000


def test_devices_are_divided_into_whole_replicas() -> None:
    with pytest.raises(ValueError, match="cannot be divided into tensor_parallel_size = 2"):
        memory(Layout("sharded", 3, tensor_parallel=2), SHAPE)


def test_logits_take_a_copy_and_its_gradients() -> None:
    """float32 logits, their log softmax and its gradient: between two and four tables of N x V at a time."""
    found = head_memory(WIDTH, VOCABULARY, 1000, Layout(), chunked=False)
    assert 2 * 4 * 1000 * VOCABULARY <= found <= 4 * 4 * 1000 * VOCABULARY


def test_chunks_of_logits_take_the_same_memory_for_any_vocabulary() -> None:
    """2^24 logits in float32, their softmax and a part of the matrix."""
    for vocabulary in (20_000, 60_000):
        found = head_memory(WIDTH, vocabulary, 2048, Layout(), chunked=True)
        assert 4 * 2**24 <= found <= 4 * 4 * 2**24
