"""The planned sequence of draws."""

import time
import tracemalloc

import numpy as np
import pytest

from crosstask.datamodules.mixture.draws import Mixture


def make(seed: int = 0, window: int = 100) -> Mixture:
    return Mixture(["a", "b", "c"], [7, 50, 1000], [0.1, 0.3, 0.6], seed, window)


def test_after_every_window_each_task_was_drawn_as_its_rate_says_to_within_one() -> None:
    mixture, drawn = make(window=37), np.zeros(3)
    for window in range(200):
        tasks, _ = mixture.draws(window)
        drawn += np.bincount(tasks, minlength=3)
        assert np.abs(drawn - np.array([0.1, 0.3, 0.6]) * 37 * (window + 1)).max() <= 1


def test_an_epoch_of_several_windows_draws_every_example_once() -> None:
    sizes = [7, 50, 1000, 3]
    mixture = Mixture(list("abcd"), sizes, [size / 1060 for size in sizes], seed=0, window=1060 / 9)
    drawn = [(int(t), int(e)) for window in range(9) for t, e in zip(*mixture.draws(window), strict=True)]
    assert sorted(drawn) == [(task, example) for task, size in enumerate(sizes) for example in range(size)]


def test_no_example_comes_again_before_all_of_its_task_came() -> None:
    mixture = make()
    examples = {task: [] for task in range(3)}  # type: ignore[var-annotated]
    for window in range(40):
        # The order inside a window is mixed: passes are compared as sets, task by task.
        for task, example in zip(*mixture.draws(window), strict=True):
            examples[int(task)].append(int(example))
    counts = np.bincount(examples[1], minlength=50)  # 40 windows * 30 draws = 1200 = 24 passes
    assert counts.tolist() == [24] * 50
    assert np.ptp(np.bincount(examples[0], minlength=7)) <= 1
    assert np.ptp(np.bincount(examples[2], minlength=1000)) <= 1


def test_a_window_is_a_pure_function_of_seed_and_position() -> None:
    forward, backward = make(), make()
    ahead = [forward.draws(window) for window in (0, 1, 2, 999)]
    behind = [backward.draws(window) for window in (999, 2, 1, 0)][::-1]
    for first, second in zip(ahead, behind, strict=True):
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])
    other = make(seed=1).draws(0)
    assert not np.array_equal(ahead[0][1], other[1])


def test_another_task_in_the_mixture_leaves_the_orders_of_the_others_as_they_were() -> None:
    def first_pass(mixture: Mixture, name: str) -> list[int]:
        task = mixture.names.index(name)
        return mixture.examples(np.full(7, task), np.arange(7)).tolist()

    wider = Mixture(["new", "a", "b", "c"], [5, 7, 50, 1000], [0.25] * 4)
    assert first_pass(make(), "b") == first_pass(wider, "b")
    assert first_pass(make(), "b") != first_pass(make(seed=1), "b")


def test_position_of_a_billion_draws_is_reached_at_once() -> None:
    began = time.perf_counter()
    tasks, examples = make(window=65_536).draws(10**9 // 65_536)
    assert time.perf_counter() - began < 2
    assert abs(len(tasks) - 65_536) <= 3
    assert examples.max() < 1000


def test_a_billion_examples_take_no_memory() -> None:
    tracemalloc.start()
    Mixture(["text"], [10**9], [1.0]).draws(3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20  # an order written down would take 8 GB


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["a"], [3], [0.5]), "sum to 1"),
        ((["a"], [3, 4], [1.0]), "one entry per task"),
        ((["a"], [3], [1.0], 0, 0), "positive number of draws"),
    ],
)
def test_an_inconsistent_mixture_is_rejected(arguments: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mixture(*arguments)
