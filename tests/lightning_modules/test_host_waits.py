"""Between log steps, the host waits for no result of the device: it runs ahead, and the device is never idle."""

from pathlib import Path
from typing import Any

import pytest
import torch
from host_waits import CountedSteps, HostWaits
from lightning.pytorch.loggers import CSVLogger
from small_runs import SmallRuns, small_trainer

from crosstask.callbacks import Throughput
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization

SEQ2SEQ = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
SEQ2SEQ |= {"decoder_start_token_id": 0}


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "lora", "masters"])
def test_no_step_between_two_logs_waits_for_the_device(
    kind: str, toybench: Path, tiny_model: dict[str, Any], tmp_path: Path
) -> None:
    runs = SmallRuns(toybench, tmp_path, tiny_model)
    fused = Optimization(learning_rate=0.01, fused=True, master_weights=kind == "masters")
    arguments: dict[str, Any] = {"network": Network(dtype="bfloat16")} if kind == "masters" else {}
    data: dict[str, Any] = {}
    if kind == "seq2seq":
        arguments, data = {"config": SEQ2SEQ}, {"rows": {"target_length": 32}}
    module, datamodule = runs("lora" if kind == "lora" else "tuning", data=data, optimizer=fused, **arguments)
    counted = CountedSteps()
    trainer = small_trainer(
        3,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        log_every_n_steps=3,
        logger=CSVLogger(tmp_path),
        callbacks=[counted, Throughput(every=3)],
    )
    trainer.fit(module, datamodule=datamodule)
    assert counted.waits[:5] == [[]] * 5
    assert counted.waits[5]  # what is logged is read: so the count means something


def test_reading_a_number_and_selecting_by_a_mask_are_counted() -> None:
    values = torch.arange(4.0)
    with HostWaits() as waits:
        values.sum().item()
        values[values > 1]
        values[values > 1] = 0.0
        values.index_select(0, torch.tensor([1, 2]))
    assert [place.split(" ")[0] for place in waits.places] == [
        "aten._local_scalar_dense",
        "aten.index",
        "aten.index_put_",
    ]
