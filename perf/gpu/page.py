"""Write the section `On a GPU` of docs/performance.md from the JSON of perf/gpu/measure.py.

    python perf/gpu/page.py runs/gpu.json docs/performance.md

The section is between two comments, and is replaced as a whole. Results at toy size are not written into a page.
"""

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- perf/gpu.sh: begin -->", "<!-- perf/gpu.sh: end -->"
GOALS = {"training_1.3b": 0.5, "training_6.7b": 0.55}
"""Expected model FLOPs utilization, by section; published are 50 to 55% for 7B on A800."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    results = json.loads(given.results.read_text())
    if results["toy"]:
        print(f"{given.results} has toy sizes: {given.page} stays as it is")
        print(section(results))
        return
    given.page.write_text(replaced(given.page.read_text(), section(results)))
    print(f"{given.page}: {len(results['sections'])} measurements of {results['machine']['device']}")


def replaced(page: str, text: str) -> str:
    """Return the page with `text` between its two comments.

    Raises:
        ValueError: The page lacks them.
    """
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no section between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def section(results: dict[str, Any]) -> str:
    """Return the measurements as Markdown."""
    machine, sections = results["machine"], results["sections"]
    lines = [
        f"`perf/gpu.sh` on one {machine['device']}, torch {machine['torch']}, transformers {machine['transformers']}, "
        f"{machine['date']}.",
        "",
    ]
    lines += training_table(sections)
    lines += whole_runs(sections)
    lines += comparison_table(sections)
    if "tests" in sections:
        lines += [f"Tests that need a GPU: {sections['tests'].get('last_line') or sections['tests'].get('error')}.", ""]
    failed = [f"`{name}`: {entry['error']}" for name, entry in sections.items() if "error" in entry]
    if failed:
        lines += ["Without a result: " + "; ".join(failed) + "."]
    return "\n".join(lines).rstrip()


def training_table(sections: dict[str, Any]) -> list[str]:
    """Return the table of training steps: tokens per second, utilization and memory."""
    rows = [
        (GOALS.get(name), result)
        for name, entry in sections.items()
        for result in entry.get("results", [])
        if result.get("benchmark") == "training"
    ]
    if not rows:
        return []
    lines = [
        "| training | rows of 2,048 | real tokens a second | utilization | goal | GiB |",
        "|---|---|---|---|---|---|",
    ]
    for goal, result in rows:
        setting = result["setting"]
        details = [f"{result['program']}, {setting['size']}"]
        details += [f"attention {result['attention']}"] if result["program"] == "trl" else []
        details += ["compiled"] if setting["compile"] else []
        details += ["float32 masters"] if setting.get("masters") else []
        details += [f"recomputed {json.loads(setting['recompute'])}".lower()] if setting["recompute"] != "false" else []
        lines.append(
            f"| {', '.join(details)} | {setting['batches']} x {setting['rows']} | {result['tokens_per_second']:,.0f} | "
            f"{percent(result['utilization'])} | {percent(goal)} | {result['peak_gib'] or ''} |"
        )
    return [*lines, ""]


def whole_runs(sections: dict[str, Any]) -> list[str]:
    """Return a sentence for each run of the program: how long the host waits for batches, and what is compiled when."""
    runs = [each for entry in sections.values() for each in entry.get("results", []) if "waiting_for_data" in each]
    lines = [
        f"In `{each['program']}` of {each['setting']['size']}, the host waits {each['waiting_for_data']:.1%} of the "
        f"time for batches. {each['graphs_until_validation']} graphs are compiled until a validation has generated, "
        f"and {each['graphs_after_it']} after it."
        for each in runs
    ]
    return [*lines, ""] if lines else []


def comparison_table(sections: dict[str, Any]) -> list[str]:
    """Return the table of measurements with a peer."""
    rows = [result for entry in sections.values() for result in entry.get("results", []) if "peer" in result]
    if not rows:
        return []
    lines = ["| | crosstask | peer | ratio | unit | setting |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['benchmark'].replace('_', ' ')} | {row['ours']:,.2f} | {row['peer']:,.2f} | {row['ratio']:.2f} | "
        f"{row['unit']} | {row['setting']} |"
        for row in rows
    ]
    return [*lines, ""]


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    main()
