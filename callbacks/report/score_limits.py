"""Remarks on instances that ROUGE-L or exact match cannot score, shown beside their scores.

"unread": ROUGE-L finds no words in the references. "erased": the task's rule leaves nothing of a reference.
"""

from collections.abc import Sequence

from .scores import Group, ScoreReport

MOST_NAMED = 20
"""Tasks that a sentence names."""


def limits_of(group: Group) -> dict[str, str]:
    """Return how many instances of a task, category or level a metric cannot score, as text by metric; {} if none.

    >>> limits_of(Group("task", 0, "rouge_l", 1, {}, unread=2))
    {'rouge_l': '2 unread'}
    """
    remarks = {"rouge_l": (group.unread, "unread"), "exact_match": (group.erased, "erased")}
    return {metric: f"{count} {word}" for metric, (count, word) in remarks.items() if count}


def limits_text(report: ScoreReport) -> list[str]:
    """Return sentences that name the tasks with instances which ROUGE-L or exact match cannot score."""
    unread = [(group, group.unread) for group in report.tasks if group.unread]
    erased = [(group, group.erased) for group in report.tasks if group.erased]
    texts = []
    if unread:
        texts.append(
            f"Unread: ROUGE-L reads the letters a to z and digits only, and less than half of the letters of the "
            f"references of {_counted(unread)}. An equal answer may score 0 there, and a wrong one 100; "
            "`--model.rouge unicode` reads all scripts."
        )
    if erased:
        texts.append(
            f"Erased: the benchmark's own rule of exact match leaves nothing of a reference of {_counted(erased)}. "
            "An empty answer equals it."
        )
    return texts


def _counted(counts: Sequence[tuple[Group, int]]) -> str:
    """Return the number of instances and the names of their tasks, each with its number.

    >>> _counted([(Group("sorting", shots, "rouge_l", 1, {}), 2) for shots in (0, 5)])
    '2 instances of 1 task: sorting (2 of 0)'
    """
    of_task: dict[str, tuple[int, int]] = {}
    for group, count in counts:  # at several numbers of shots, a task has a group for each, of the same instances
        of_task[group.name] = max(of_task.get(group.name, (0, 0)), (count, group.instances))
    total = sum(count for count, _ in of_task.values())
    names = [f"{name} ({count} of {instances})" for name, (count, instances) in of_task.items()]
    listed = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if names[MOST_NAMED:] else "")
    return f"{total} instance{'s' * (total != 1)} of {len(names)} task{'s' * (len(names) != 1)}: {listed}"
