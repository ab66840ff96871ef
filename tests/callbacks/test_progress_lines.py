"""Progress in lines: one at most every so many seconds, with what a reader of a log file wants to know."""

import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import SmallRuns, small_trainer

from crosstask.callbacks import ProgressLines, Throughput
from crosstask.callbacks.token_counts import token_count

STEP = re.compile(r"^step (\d) of 3 \| loss \S+ \| learning rate \S+ \| ([\d,]+) tokens/s \| 0:\d\d:\d\d left$", re.M)


@pytest.fixture
def runs(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> SmallRuns:
    return SmallRuns(toybench, tmp_path, tiny_model)


@pytest.mark.parametrize("kind", ["tuning", "scorer"])
def test_steps_are_printed_as_often_as_asked_and_at_both_ends(
    kind: str, runs: SmallRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    for seconds, steps in ((0.0, ["1", "2", "3"]), (1000.0, ["1", "3"])):
        module, data = runs(kind)
        small_trainer(3, callbacks=[ProgressLines(seconds)], enable_progress_bar=True).fit(module, datamodule=data)
        lines = STEP.findall(capsys.readouterr().out)
        assert [step for step, _ in lines] == steps
        assert all(int(speed.replace(",", "")) > 0 for _, speed in lines)


def test_evaluated_examples_are_counted(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    module, data = runs("tuning")
    trainer = small_trainer(1, callbacks=[ProgressLines(0.0), Throughput()], enable_progress_bar=True)
    trainer.test(module, datamodule=data, verbose=False)
    lines = re.findall(r"^test: batch (\d+) of (\d+), (\d+) of (\d+) examples$", capsys.readouterr().out, re.M)
    assert lines
    assert lines[-1] == (lines[0][1], lines[0][1], str(len(data.evaluation_examples("test"))), lines[0][3])


def test_the_tokens_of_pairs_are_those_of_their_documents(runs: SmallRuns) -> None:
    _, data = runs("scorer")
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    lengths = batch.offsets.diff()
    starts = {int(place) for place in batch.scored}
    expected = sum(int(n) for start, n in zip(batch.offsets[:-1], lengths, strict=True) if int(start) in starts)
    assert int(token_count(batch)) == expected > 0
