"""Tasks of the embedded benchmark: operations on short lists of animals, colors, names, numbers ...

A row of ``OPERATIONS`` is one operation with one wording. Applied to several kinds of items, it makes one task for
each. Tasks of a category share words in their definitions, and tasks of different categories share inputs, so that only
the definition determines the operation::

    Write the letters in reverse order.   list: c a f    ->  f a c       train
    Write the same numbers again.         list: 7 3 12   ->  7 3 12      train
    Write the numbers in reverse order.   list: 7 3 12   ->  12 3 7      test: operation and kind of items are known

Lists are short and kinds have few items, so that a model of a million parameters learns the tasks in minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

POOLS = {
    "animal": "ant bee cat cow dog fox hen owl".split(),
    "color": "black blue brown gray green pink red white".split(),
    "food": "bread cake corn egg jam nut rice soup".split(),
    "name": "Ann Ben Eva Kim Leo Max Sue Tom".split(),
    "letter": list("abcdefgh"),
    "number": [str(number) for number in range(1, 13)],
}
POOLS["word"] = POOLS["animal"] + POOLS["color"] + POOLS["food"]
KIND_OF = {item: kind for kind in ("animal", "color", "food") for item in POOLS[kind]}

SPLITS = ("train", "dev", "test")

Draw = Callable[[Random, str], tuple[str, str]]
"""Function of (random generator, kind of items) that draws one pair (input, output)."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Operation on a short list, such as reversing it; it makes one task for each kind of items in the list.

    Args:
        name: Unique name; tasks are named ``<name>_<kind>s``.
        category: Category of its tasks.
        definition: Instruction; ``{}`` stands for the kind of items.
        rule: Explanation in the demonstrations.
        draw: Function that draws one pair (input, output).
        train: Kinds of items whose tasks train, separated by spaces.
        dev: Kinds of items whose tasks are validated.
        test: Kinds of items whose tasks are tested.
    """

    name: str
    category: str
    definition: str
    rule: str
    draw: Draw
    train: str = ""
    dev: str = ""
    test: str = ""


@dataclass(frozen=True, slots=True)
class ToyTask:
    """Task of the embedded benchmark: one operation on one kind of items, e.g. lists of animals in reverse order.

    Args:
        operation: The operation.
        kind: Kind of items, a key of ``POOLS``.
    """

    operation: Operation
    kind: str

    @property
    def name(self) -> str:
        return f"{self.operation.name}_{self.kind}s"

    @property
    def definition(self) -> str:
        return self.operation.definition.format(self.kind)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that list the task."""
        return tuple(split for split in SPLITS if self.kind in getattr(self.operation, split).split())

    def draw(self, rng: Random) -> tuple[str, str]:
        """Draw one pair (input, output)."""
        return self.operation.draw(rng, self.kind)


def others(kind: str) -> list[str]:
    """Return the items of the other kinds that may be mixed with this kind."""
    return [item for other in ("animal", "color", "food", "name", "number") if other != kind for item in POOLS[other]]


def a_list(solve: Callable[[list[str]], list[str]], *, sizes: tuple[int, int] = (2, 4)) -> Draw:
    """Return a function that draws a list of distinct items as input, ``list: cat owl``, and its solution as output.

    Args:
        solve: Function that returns the items of the output.
        sizes: Smallest and largest number of items.
    """

    def draw(rng: Random, kind: str) -> tuple[str, str]:
        items = rng.sample(POOLS[kind], rng.randint(*sizes))
        return f"list: {' '.join(items)}", " ".join(solve(items))

    return draw


def a_capital_list(rng: Random, kind: str) -> tuple[str, str]:
    """Draw a list in capital letters with the output in small ones: ``list: CAT OWL`` becomes ``cat owl``."""
    text = " ".join(rng.sample(POOLS[kind], rng.randint(2, 4)))
    return f"list: {text.upper()}", text


def a_mixed_list(solve: Callable[[list[bool], list[str]], list[str]], *, counts: tuple[int, int] = (1, 3)) -> Draw:
    """Return a function that draws a list of four or five items as input, only some of them of the task's kind.

    Args:
        solve: Function of (whether each item is of the kind, items) that returns the output.
        counts: Smallest and largest number of items of the kind.
    """

    def draw(rng: Random, kind: str) -> tuple[str, str]:
        wanted = rng.randint(*counts)
        items = rng.sample(POOLS[kind], wanted) + rng.sample(others(kind), rng.randint(4, 5) - wanted)
        rng.shuffle(items)
        return f"list: {' '.join(items)}", " ".join(solve([item in POOLS[kind] for item in items], items))

    return draw


def a_lookup(rng: Random, kind: str) -> tuple[str, str]:
    """Draw a name and a list with an item for each name: ``name: Ben list: Ann red Ben blue`` becomes ``blue``."""
    size = rng.randint(2, 3)
    pairs = dict(zip(rng.sample(POOLS["name"], size), rng.sample(POOLS[kind], size), strict=True))
    key = rng.choice(list(pairs))
    return f"name: {key} list: {' '.join(f'{name} {item}' for name, item in pairs.items())}", pairs[key]


def a_membership(rng: Random, kind: str) -> tuple[str, str]:
    """Draw an item and a list that may contain it: ``animal: dog list: cat dog fox`` becomes ``yes``."""
    *items, stranger = rng.sample(POOLS[kind], rng.randint(3, 4))
    item, answer = rng.choice([(rng.choice(items), "yes"), (stranger, "no")])
    return f"{kind}: {item} list: {' '.join(items)}", answer


def a_choice(rng: Random, kind: str) -> tuple[str, str]:
    """Draw three options, one of which is of the kind: for colors, ``list: cat or 7 or red`` becomes ``red``."""
    right = rng.choice(POOLS[kind])
    options = [right, *rng.sample(others(kind), 2)]
    rng.shuffle(options)
    return f"list: {' or '.join(options)}", right


def a_sentence(template: str) -> Draw:
    """Return a function that draws four items as input, and a sentence with these items in its gaps as output.

    ``list: Ann red cat Ben`` becomes ``Ann gives a red cat to Ben.``

    Args:
        template: The sentence, with ``{}`` for the gaps: a name, a color, an item of the task's kind, a name.
    """

    def draw(rng: Random, kind: str) -> tuple[str, str]:
        items = [rng.choice(POOLS[gap]) for gap in ("name", "color", kind, "name")]
        return f"list: {' '.join(items)}", template.format(*items)

    return draw


def a_repetition(rng: Random, kind: str) -> tuple[str, str]:
    """Draw three or four items, one of which occurs twice: ``list: cat dog cat`` becomes ``cat``."""
    items = rng.sample(POOLS[kind], rng.randint(2, 3))
    twice = rng.choice(items)
    items.append(twice)
    rng.shuffle(items)
    return f"list: {' '.join(items)}", twice


def same(items: list[str]) -> list[str]:
    return items


def backwards(items: list[str]) -> list[str]:
    return items[::-1]


def first(items: list[str]) -> list[str]:
    return items[:1]


def last(items: list[str]) -> list[str]:
    return items[-1:]


def plus(amount: int) -> Callable[[list[str]], list[str]]:
    return lambda items: [str(int(item) + amount) for item in items]


def kinds(items: list[str]) -> list[str]:
    return [KIND_OF[item] for item in items]


def only(wanted: list[bool], items: list[str]) -> list[str]:
    return [item for item, want in zip(items, wanted, strict=True) if want]


def all_but(wanted: list[bool], items: list[str]) -> list[str]:
    return [item for item, want in zip(items, wanted, strict=True) if not want]


# fmt: off
OPERATIONS = (
    Operation("copy", "Text Copying", "Write the same {}s again.", "The list is repeated as it stands.",
              a_list(same), train="animal color food letter number", test="animal name"),
    Operation("copy_twice", "Text Copying", "Write the {}s two times.", "The list stands there two times.",
              a_list(lambda items: items * 2), train="food letter name"),
    Operation("reverse", "Word Order", "Write the {}s in reverse order.", "The last one comes first.",
              a_list(backwards), train="animal color food letter name", test="animal number"),
    Operation("backwards", "Word Order", "Write the {}s from last to first.", "The last one comes first.",
              a_list(backwards), train="food letter number", dev="food color"),
    Operation("capitals", "Letter Case", "Write the {}s in capital letters.", "Every letter is a capital.",
              a_list(lambda items: [item.upper() for item in items]), train="animal food name", test="food color"),
    Operation("capital_first", "Letter Case", "Write the first {} in capital letters.", "The first one, in capitals.",
              a_list(lambda items: [items[0].upper()]), train="color name"),
    Operation("small", "Letter Case", "Write the {}s in small letters.", "Every letter is small.",
              a_capital_list, train="animal color food"),
    Operation("count", "Counting", "How many {}s are there?", "Only the items of this kind count.",
              a_mixed_list(lambda wanted, items: [str(sum(wanted))], counts=(1, 4)),
              train="animal food name number", test="food color"),
    Operation("sort_up", "Sorting", "Sort the {}s from a to z.", "They stand as in a dictionary.",
              a_list(sorted), train="animal color food letter", test="animal"),
    Operation("sort_down", "Sorting", "Sort the {}s from z to a.", "The last one of a dictionary comes first.",
              a_list(lambda items: sorted(items)[::-1]), train="color food letter", test="animal"),
    Operation("increase", "Sorting", "Sort the {}s from small to big.", "The smallest comes first.",
              a_list(lambda items: sorted(items, key=int)), train="number"),
    Operation("first", "Element Selection", "Write the first {}.", "It stands first.",
              a_list(first), train="animal color food name number", test="letter"),
    Operation("last", "Element Selection", "Write the last {}.", "It stands last.",
              a_list(last), train="animal color food letter name", test="letter number"),
    Operation("biggest", "Comparison", "Write the biggest {}.", "No other one is bigger.",
              a_list(lambda items: [max(items, key=int)]), train="number", test="number"),
    Operation("smallest", "Comparison", "Write the smallest {}.", "No other one is smaller.",
              a_list(lambda items: [min(items, key=int)]), train="number", dev="number"),
    Operation("lookup", "Key Lookup", "Write the {} that the name has.", "It stands after the name.",
              a_lookup, train="color food letter number", test="color animal"),
    Operation("add_one", "Arithmetic", "Add one to each {}.", "Each is one bigger.",
              a_list(plus(1), sizes=(2, 3)), train="number", test="number"),
    Operation("add_two", "Arithmetic", "Add two to each {}.", "Each is two bigger.",
              a_list(plus(2), sizes=(2, 3)), train="number"),
    Operation("kind_of_each", "Tagging", "Write the kind of each {}.", "Each word has its kind.",
              a_list(kinds, sizes=(2, 3)), train="word", test="word"),
    Operation("kind_of_first", "Tagging", "Write the kind of the first {}.", "It is the kind of the first one.",
              a_list(lambda items: kinds(first(items))), train="word"),
    Operation("kind_of_last", "Tagging", "Write the kind of the last {}.", "It is the kind of the last one.",
              a_list(lambda items: kinds(last(items))), dev="word"),
    Operation("only", "Filtering", "Write only the {}s.", "The rest is left out.",
              a_mixed_list(only), train="animal food name number", test="animal color"),
    Operation("all_but", "Filtering", "Write all but the {}s.", "They are left out.",
              a_mixed_list(all_but), train="animal food number"),
    Operation("has", "Membership", "Is the {} in the list? Write yes or no.", "The list is searched for it.",
              a_membership, train="animal color letter number", test="number name"),
    Operation("choose", "Multiple Choice", "Choose the {}.", "It is the only option of this kind.",
              a_choice, train="animal color name number", test="color food"),
    Operation("gives", "Template Filling", "Fill in: name gives a color {} to name.", "The list fills it in order.",
              a_sentence("{} gives a {} {} to {}."), train="animal"),
    Operation("eats", "Template Filling", "Fill in: name eats a color {} with name.", "The list fills it in order.",
              a_sentence("{} eats a {} {} with {}."), train="food"),
    Operation("find", "Keyword Extraction", "Write the {}.", "It is the only one of its kind.",
              a_mixed_list(only, counts=(1, 1)), test="color food"),
    Operation("drop_first", "List Editing", "Write all {}s but the first.", "The first one is left out.",
              a_list(lambda items: items[1:]), test="animal number"),
    Operation("repeated", "Repetition Detection", "Write the {} that the list has two times.",
              "The others are there once.", a_repetition, test="animal number"),
)
# fmt: on

TASKS = tuple(
    ToyTask(operation, kind)
    for operation in OPERATIONS
    for kind in dict.fromkeys(f"{operation.train} {operation.dev} {operation.test}".split())
)
