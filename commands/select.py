"""``crosstask select``: choose among sampled responses by a scorer and by other methods."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..callbacks.report.selection_table import by_size, print_table, to_json, write_choices
from ..datamodules.scoring.pair_rows import Truncation
from ..datamodules.scoring.sampled_examples import SampledExamples
from ..datamodules.scoring.samples import ModelSamples
from ..lightning_modules.scoring.calibration import Calibration, load_calibration
from ..lightning_modules.scoring.cross_encoder import CrossEncoder
from ..lightning_modules.scoring.sampled_responses import read_sampled_responses, score_responses, to_scored_responses
from ..lightning_modules.scoring.selection import SCORER
from ..lightning_modules.scoring.selection_scores import selection_table


def select_samples(
    examples: SampledExamples,
    samples: list[str],
    output: str,
    scorer: str | None = None,
    max_length: int = 512,
    truncation: Truncation = "instruction",
    device: str = "cpu",
    sizes: Sequence[int] = (1, 4),
) -> None:
    """Choose among the responses of every example by each method, and print what each choice is worth.

    Samples of several generators are responses together; single decodings are then named by their generator, too.

    Args:
        examples: Which examples, and how they are rendered: as the scorer's training instructions were.
        samples: JSONL files of responses, e.g. from ``crosstask samples``.
        output: Folder for ``selection.json`` (the table) and ``choices.jsonl`` (every example's choices, to be read).
        scorer: Hub name or folder of a trained scorer; without one, the other methods are compared. A calibration that
            lies in the folder is used.
        max_length: Most tokens of an instruction with a response.
        truncation: What a longer pair loses.
        device: Where the scorer runs.
        sizes: Also choose among so many nucleus samples alone.
    """
    sampled = read_sampled_responses(examples, ModelSamples(samples))
    scores: list[dict[str, Sequence[float]]] = [{}] * len(sampled)
    known: dict[str, Calibration] = {}
    if scorer is not None:
        encoder = CrossEncoder.from_pretrained(scorer, device=device, max_length=max_length, truncation=truncation)
        scores = [{SCORER: own} for own in score_responses(encoder, sampled)]
        if calibration := load_calibration(scorer):
            known = {SCORER: calibration}
    everything = [to_scored_responses(each, own, calibrations=known) for each, own in zip(sampled, scores, strict=True)]
    table = selection_table(everything)
    folder = Path(output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    found = to_json(table) | {"sizes": by_size(everything, sizes)}
    (folder / "selection.json").write_text(json.dumps(found, indent=1))
    write_choices(folder / "choices.jsonl", sampled, everything)
    print_table(table, found["sizes"])
