"""Report of packing: numbers of stored, skipped and truncated examples, and how full the rows are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..rendering.unknown_tokens import UnknownTokens, unknown_lines
from .train_stream import TrainPlan

MOST_WINDOWS = 32
"""Maximum number of windows planned for a report, two million draws; counts of a longer epoch are scaled up."""


@dataclass(frozen=True)
class PackingReport:
    """Numbers of one epoch of training, computed before it runs: examples, packed rows, padding and truncation.

    Args:
        tasks: Tasks in the mixture.
        examples: Stored documents of all tasks.
        skipped: Number of examples that cannot be trained on, by reason.
        draws: Draws of an epoch: the number of examples of each task, or the cap if that is less, summed over tasks.
        rows: Rows of these draws.
        columns: Columns of all rows.
        real_tokens: Columns that are not padding.
        target_tokens: Columns that are trained.
        truncated: Draws that are longer than a row and lose tokens.
        target_cut: Truncated draws that lose target tokens, too.
        steps: Optimizer steps of an epoch.
        planned: Share of the epoch that was packed for this report, in (0, 1]. The counts from `draws` to `steps` are
            scaled to a whole epoch.
        unknown: Unknown tokens in the stored documents, by task; only tasks that have any.
        remarks: Number of each remark on stored examples, such as samples that a scorer does not train on.
    """

    tasks: int
    examples: int
    skipped: Mapping[str, int]
    draws: int
    rows: int
    columns: int
    real_tokens: int
    target_tokens: int
    truncated: int
    target_cut: int
    steps: int
    planned: float = 1.0
    unknown: Mapping[str, UnknownTokens] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)

    @property
    def efficiency(self) -> float:
        """Share of columns that are not padding."""
        return self.real_tokens / max(self.columns, 1)

    @property
    def target_share(self) -> float:
        """Share of real tokens that are trained."""
        return self.target_tokens / max(self.real_tokens, 1)

    def lines(self) -> list[tuple[str, str]]:
        """Return (quantity, value) of each line to print."""
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.skipped.items())) or "none"
        return [
            ("tasks", f"{self.tasks:,}"),
            ("examples stored", f"{self.examples:,}"),
            ("examples skipped", skipped),
            *((remark, f"{count:,}") for remark, count in sorted(self.remarks.items())),
            *unknown_lines(self.unknown),
            ("examples in an epoch", f"{self.draws:,}"),
            ("rows in an epoch", f"{self.rows:,} ({self.draws / max(self.rows, 1):.1f} documents a row)"),
            ("optimizer steps in an epoch", f"{self.steps:,}"),
            ("columns holding real tokens", f"{self.efficiency:.2%}"),
            ("real tokens that are targets", f"{self.target_share:.2%}"),
            ("documents cut to a row", f"{self.truncated:,}"),
            ("documents whose target is cut", f"{self.target_cut:,}"),
            *([("planned of the epoch, counts scaled", f"{self.planned:.1%}")] if self.planned < 1 else []),
        ]


def packing_report(plan: TrainPlan, epoch: int, most_windows: int = MOST_WINDOWS) -> PackingReport:
    """Pack the documents of an epoch without reading their tokens, and count documents, rows and tokens.

    Args:
        plan: The training plan.
        epoch: Number of draws of an epoch.
        most_windows: Maximum number of windows (successive draws that are packed together) to pack. If the epoch has
            more, the counts are scaled up.
    """
    windows = round(epoch / plan.mixture.window)
    planned = min(windows, most_windows)
    count: Counter[str] = Counter()
    for index in range(planned):
        count.update(_counts(plan, index))
    skipped: Counter[str] = Counter()
    for reasons in plan.stored.skipped:
        skipped.update(reasons)
    scaled = {name: round(number * windows / planned) for name, number in count.items()}
    return PackingReport(
        tasks=len(plan.stored),
        examples=int(plan.stored.firsts[-1]),
        skipped=dict(skipped),
        draws=scaled["draws"],
        rows=scaled["rows"],
        columns=scaled["rows"] * plan.kind.columns,
        real_tokens=scaled["real"],
        target_tokens=scaled["targets"],
        truncated=scaled["truncated"],
        target_cut=scaled["target_cut"],
        steps=-(-scaled["rows"] // plan.rows_per_step),
        planned=planned / windows,
        unknown={name: counts for name, counts in plan.stored.unknown.items() if any(counts)},
        remarks=plan.stored.remarks,
    )


def _counts(plan: TrainPlan, index: int) -> dict[str, int]:
    """Return the counts of one window."""
    window = plan.window(index)
    lengths, n_sources = plan.lengths(window)
    cuts = plan.kind.cuts(lengths, n_sources)
    return {
        "draws": len(window.tasks),
        "rows": len(window.rows),
        "real": int(plan.kind.real_tokens(lengths, n_sources).sum()),
        "targets": int(window.row_targets.sum()),
        "truncated": int(np.count_nonzero(cuts.truncated)),
        "target_cut": int(np.count_nonzero(cuts.target_cut)),
    }
