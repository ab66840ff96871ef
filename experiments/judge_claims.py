"""Judge the papers' claims by the results of the small copies of their experiments, and write docs/claims.md.

    python experiments/claims_results.py runs/claims    # after new runs: keep their scores
    python experiments/judge_claims.py                  # read the kept scores, and write the page

The claims are in ``experiments/claims/claims.yaml``. A claim says that one system scores higher than another. The 95%
interval of the difference, paired by task and seed, decides: above 0 the claim holds, below 0 it does not hold, and
otherwise it is not decided.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from claim_power import (
    HALF_A_POINT,
    MOST,
    Spread,
    power,
    seeds_for_these_tasks,
    seeds_needed,
    seeds_of_published,
    seeds_with_tasks,
    smallest_difference,
    spread_of,
    tasks_needed,
)
from claims_results import CLAIMS, Results, arm_of
from numpy.typing import NDArray
from scipy.stats import t as student_t

from crosstask.callbacks.report.figure_style import COLORS, write_figure_files
from crosstask.callbacks.report.score_figures import difference_intervals
from crosstask.lightning_modules.evaluation.significance import Difference

PAGE = Path(__file__).parents[1] / "docs/claims.md"
TEXT = CLAIMS / "page.md"

Verdict = Literal["holds", "does not hold", "not decided"]
LEVELS = {
    "fully_supervised": "fully supervised",
    "partially_supervised": "partially supervised",
    "fully_held_out": "held out",
}
UNSEEN = ("partially_supervised", "fully_held_out")


@dataclass(frozen=True)
class Claim:
    """Claim of a paper that one method scores higher than another.

    Args:
        claim: The claim in words.
        published: The paper's numbers and where they are, the lower system's first.
        higher: Name of the system that should score higher.
        lower: Name of the other one.
        tasks: Which tasks are compared: all, unseen (those that do not train), a level, or a collection (``narrow/``).
        remark: Explanation of the verdict.
        half_widths: Half widths of the paper's intervals over seeds, the lower system's first; empty if it has none.
    """

    claim: str
    published: str
    higher: str
    lower: str
    tasks: str = "unseen"
    remark: str = ""
    half_widths: Sequence[float] = ()


class Judged(NamedTuple):
    """Claim with its evidence.

    Args:
        claim: The claim.
        lower: Mean of the system that should score lower, in percent.
        higher: Mean of the other one.
        difference: Higher minus lower, with its interval, in percentage points.
        tasks: Number of tasks.
        seeds: The seeds of both systems.
        by_level: The difference on the tasks of each level.
        hours: Hours of the runs of both systems.
        spread: The variances of the differences.
    """

    claim: Claim
    lower: float
    higher: float
    difference: Difference
    tasks: int
    seeds: tuple[int, ...]
    by_level: dict[str, float]
    hours: float
    spread: Spread

    @property
    def published_effect(self) -> float:
        """The paper's difference, higher minus lower, in percentage points."""
        lower, higher = map(float, self.claim.published.split(":")[-1].split(","))
        return higher - lower

    @property
    def verdict(self) -> Verdict:
        return verdict(self.difference.low, self.difference.high)


def verdict(low: float, high: float) -> Verdict:
    """Return the verdict that follows from the interval of a difference.

    >>> verdict(0.5, 3.0), verdict(-3.0, -0.5), verdict(0.0, 3.0)
    ('holds', 'does not hold', 'not decided')
    """
    return "holds" if low > 0 else "does not hold" if high < 0 else "not decided"


def paired_interval(differences_ST: NDArray[np.float64]) -> Difference:
    """Return the mean of the differences of S seeds and T tasks, with a 95% interval over other seeds and other tasks.

    The squared standard error is the sum of two, that of the means of tasks and that of the means of seeds, which
    counts the noise of single runs twice and so errs on the wide side. Student's t has Satterthwaite's degrees of
    freedom. A single seed, or task, adds nothing: the interval then does not cover others.

    Raises:
        ValueError: There is only one difference.
    """
    means = [differences_ST.mean(axis=axis) for axis in (0, 1)]
    parts = [(values.var(ddof=1) / len(values), len(values) - 1) for values in means if len(values) > 1]
    if not parts:
        raise ValueError("one difference has no interval: compare more tasks or seeds")
    mean, squared = float(differences_ST.mean()), sum(part for part, _ in parts)
    if squared == 0:
        return Difference(mean, mean, mean, float(mean == 0))
    freedom, error = squared**2 / sum(part**2 / count for part, count in parts), math.sqrt(squared)
    half = float(student_t.ppf(0.975, freedom)) * error
    return Difference(mean, mean - half, mean + half, 2 * float(student_t.sf(abs(mean) / error, freedom)))


def shared_runs(claim: Claim, results: Results) -> tuple[tuple[int, ...], list[str]]:
    """Return the seeds that both systems have, and the claim's tasks that both have with each of these seeds."""
    above, below = (results.systems.get(name, {}) for name in (claim.higher, claim.lower))
    seeds = tuple(sorted(set(above) & set(below)))
    levels = {"unseen": UNSEEN, "all": tuple(LEVELS)}.get(claim.tasks, (claim.tasks,))
    listed = [task for task, level in results.levels.items() if level in levels or task.startswith(levels)]
    return seeds, [task for task in listed if all(task in of[seed] for of in (above, below) for seed in seeds)]


def judge(claim: Claim, results: Results) -> Judged:
    """Return a claim with its evidence, from the seeds and tasks that both systems have.

    Raises:
        ValueError: A system has no results, or they share no seed or task.
    """
    for name in (claim.higher, claim.lower):
        if name not in results.systems:
            raise ValueError(f"no results of {name!r} for the claim {claim.claim!r}; there are {[*results.systems]}")
    seeds, tasks = shared_runs(claim, results)
    if not seeds or not tasks:
        raise ValueError(f"{claim.higher!r} and {claim.lower!r} share {len(seeds)} seeds and {len(tasks)} tasks")
    above, below = results.systems[claim.higher], results.systems[claim.lower]
    higher, lower = (np.array([[of[seed][task] for task in tasks] for seed in seeds]) for of in (above, below))
    by_level = {
        level: float((higher - lower)[:, members].mean())
        for level in LEVELS
        if (members := [place for place, task in enumerate(tasks) if results.levels[task] == level])
    }
    arms = {arm_of(claim.higher), arm_of(claim.lower)}
    return Judged(
        claim,
        float(lower.mean()),
        float(higher.mean()),
        paired_interval(higher - lower),
        tasks=len(tasks),
        seeds=seeds,
        by_level=by_level,
        hours=sum(results.hours.get(arm, 0.0) for arm in arms),
        spread=spread_of(higher - lower),
    )


def read_results(path: Path) -> Results:
    """Return the results that claims_results.py has written."""
    record = json.loads(path.read_text())
    systems = {
        name: {int(seed): scores for seed, scores in of_seeds.items()} for name, of_seeds in record["systems"].items()
    }
    return Results(record["levels"], systems, record["hours"])


def judge_group(group: Mapping[str, Any], folder: Path) -> tuple[list[Judged], list[Claim]]:
    """Return the judged claims of an experiment, and the claims whose systems share fewer than two results."""
    claims = [Claim(**fields) for fields in group["claims"]]
    path = folder / f"{group['experiment']}.json"
    results = read_results(path) if path.is_file() else Results()
    differences = [math.prod(map(len, shared_runs(claim, results))) for claim in claims]
    ready = [claim for claim, count in zip(claims, differences, strict=True) if count > 1]
    return [judge(claim, results) for claim in ready], [claim for claim in claims if claim not in ready]


def row(number: int, judged: Judged) -> str:
    """Return a line of the table."""
    seeds = ", ".join(map(str, judged.seeds))
    gain = judged.difference
    ours = f"{judged.lower:.1f}, {judged.higher:.1f}: {gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
    hours = f"{judged.hours:.2f}" if judged.hours else ""
    cells = [str(number), judged.claim.claim, judged.claim.published, ours]
    return f"| {' | '.join([*cells, str(judged.tasks), seeds, f'**{judged.verdict}**', hours])} |"


def remarks(number: int, judged: Judged) -> list[str]:
    """Return the differences on each level, if there are several, and the explanation of the verdict."""
    by_level = ", ".join(f"{LEVELS[level]} {value:+.1f}" for level, value in judged.by_level.items())
    parts = ([f"{by_level}."] if len(judged.by_level) > 1 else []) + [judged.claim.remark]
    text = " ".join(part for part in parts if part)
    return [f"- {number}: {text}"] if text else []


def power_table(first: int, judged: Sequence[Judged], like: Mapping[str, int]) -> list[str]:
    """Return a table of the seeds and tasks that each claim needs to show the paper's difference with a power of 80%.

    Args:
        first: Number of the first claim.
        judged: The claims.
        like: The paper's numbers of seeds and tasks.
    """
    lines = [
        "Seeds and tasks that show the paper's difference in four of five experiments, if it is the true one:",
        "",
        "| | the paper's difference | deviation of tasks, of seeds, of single runs | seeds, on as many tasks | "
        f"tasks, with as many seeds | power with {like['seeds']} seeds and {like['tasks']} tasks |",
        "|---|---|---|---|---|---|",
    ]
    for number, one in enumerate(judged, first):
        effect, spread, known = one.published_effect, one.spread, one.spread.seed is not None
        deviations = [f"{(variance or 0.0) ** 0.5:.1f}" for variance in spread]
        if not known:
            deviations[1:] = ["unknown", "unknown"]
        needed = seeds_needed(effect, spread, one.tasks) if known else None
        seeds = _count(needed) if known else "unknown from one"
        tasks = _count(tasks_needed(effect, spread, len(one.seeds)))
        share = f"{power(effect, spread, **like):.0%}" if known else "unknown from one seed"
        lines.append(f"| {number} | {effect:.2f} | {', '.join(deviations)} | {seeds} | {tasks} | {share} |")
    return lines


def half_point_table(first: int, judged: Sequence[Judged], like: Mapping[str, int]) -> list[str]:
    """Return a table of what half a point needs, for the claims with a known spread of seeds.

    Args:
        first: Number of the first claim.
        judged: The claims.
        like: The paper's numbers of seeds and tasks.
    """
    seeds, tasks = like["seeds"], like["tasks"]
    a_seed = round(tasks / seeds)
    lines = [
        "What half a point of ROUGE-L needs. Columns 2 and 4 cover other seeds and other tasks; columns 3 and 5 cover "
        "other seeds alone, as the paper's intervals do. Column 5 follows from these, for runs that are not paired:",
        "",
        f"| | smallest difference that {seeds} seeds and {tasks} tasks show | seeds, for the same {tasks} tasks | "
        f"seeds, on {a_seed} times as many tasks | seeds of each system, with the paper's deviations |",
        "|---|---|---|---|---|",
    ]
    for number, one in enumerate(judged, first):
        if one.spread.seed is None:
            continue
        cells = [
            f"{smallest_difference(one.spread, seeds=seeds, tasks=tasks):.1f}",
            _count(seeds_for_these_tasks(HALF_A_POINT, one.spread, tasks)),
            _count(seeds_with_tasks(HALF_A_POINT, one.spread, a_seed)),
        ]
        widths = one.claim.half_widths
        cells.append(_count(seeds_of_published(HALF_A_POINT, widths, seeds)) if widths else "")
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return lines


def _count(number: int | None) -> str:
    return f"over {MOST:,}" if number is None else f"{number:,}"


def page(groups: Sequence[Mapping[str, Any]], folder: Path, text: str) -> str:
    """Return the page: its text with the number of verdicts, and a table for each experiment."""
    lines: list[str] = []
    count: Counter[str] = Counter()
    for group in groups:
        judged, missing = judge_group(group, folder)
        first = sum(count.values()) + 1
        count.update(one.verdict for one in judged)
        link = f"[arXiv {group['arxiv']}](https://arxiv.org/abs/{group['arxiv']})"
        lines += ["", f"## {group['paper']}", f"{link}. The runs: `{group['command']}`.", ""]
        lines += [
            "| | claim | the paper: lower, higher | ours: lower, higher, difference | tasks | seeds | verdict | hours |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [row(number, one) for number, one in enumerate(judged, first)]
        if explained := [line for number, one in enumerate(judged, first) for line in remarks(number, one)]:
            lines += ["", *explained]
        if judged and (like := group.get("power")):
            lines += ["", *power_table(first, judged, like)]
            if any(one.spread.seed is not None for one in judged):
                lines += ["", *half_point_table(first, judged, like)]
        if missing:
            lines += ["", f"Not run yet: {'; '.join(claim.claim for claim in missing)}."]
    verbs = {"holds": "hold", "does not hold": "do not hold", "not decided": "are not decided"}
    summary = f"Of {count.total()} claims, {', '.join(f'{count[name]} {verb}' for name, verb in verbs.items())}."
    return text.replace("{summary}", summary).rstrip() + "\n" + "\n".join(lines) + "\n"


def draw(groups: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw all differences, numbered as on the page, as docs/images/claims.svg."""
    judged = [one for group in groups for one in judge_group(group, folder)[0]]
    rows = [
        (f"{number} ({one.verdict})", Difference(*(value / 100 for value in one.difference[:3]), p=one.difference.p))
        for number, one in enumerate(judged, 1)
    ]
    figure = difference_intervals(rows, COLORS[0], "higher minus lower, by claim")
    write_figure_files(figure, PAGE.parent / "images", "claims", "The claims' differences", ["svg"])


def declared_groups() -> list[dict[str, Any]]:
    """Return the experiments with their claims, in the order of the page."""
    return yaml.safe_load((CLAIMS / "claims.yaml").read_text())


def claims_page() -> str:
    """Return docs/claims.md, from the declared claims and the stored results."""
    return page(declared_groups(), CLAIMS / "results", TEXT.read_text())


if __name__ == "__main__":
    PAGE.write_text(claims_page())
    draw(declared_groups(), CLAIMS / "results")
    print(PAGE)
