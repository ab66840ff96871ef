"""The tasks of the embedded benchmark: short operations on short lists, each in a few phrasings.

A task is a row of ``TASKS``. Its name, category and definition are what a model is told; ``draw`` makes one solved
pair of texts. Definitions of a category share their words, and tasks of different categories share their inputs::

    Sort the numbers from small to big.     7 3 12  ->  3 7 12
    Sort the words from z to a.             cat owl ->  owl cat
    Write the numbers in reverse order.     7 3 12  ->  12 3 7

so the operation can only be read from the definition, and a task that is held out is a recombination of what was
seen: after the first two rows, `Sort the numbers from big to small` says nothing new.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

Draw = Callable[[Random], tuple[str, str]]
"""Makes one solved pair: (input, output)."""

Solve = Callable[[list[str]], list[str]]
"""Answers a list of items with a list of items."""

ANIMALS = "ant bat bee cat cow dog fox hen owl pig rat yak".split()
COLORS = "black blue brown gold gray green pink red white yellow".split()
FOODS = "bread cake corn egg fig jam nut pear rice soup".split()
NAMES = "Ann Ben Dan Eva Ian Kim Leo Max Ned Sue Tom Zoe".split()
LETTERS = list("abcdefghijkl")
NUMBERS = [str(number) for number in range(1, 21)]
WORDS = sorted(ANIMALS + COLORS + FOODS)
KINDS = {"animal": ANIMALS, "color": COLORS, "food": FOODS}
KIND_OF = {word: kind for kind, pool in KINDS.items() for word in pool}


@dataclass(frozen=True, slots=True)
class ToyTask:
    """One task of the embedded benchmark.

    Args:
        name: Unique; the file is ``taskNNN_toy_<name>.json``.
        category: Decides, with the splits, the task's level of generalization.
        splits: The split files that list it, of ``train``, ``dev`` and ``test``.
        definition: The instruction.
        draw: Makes one solved pair of texts.
        rule: Why an output is right, for the explanations of the demonstrations.
    """

    name: str
    category: str
    splits: str
    definition: str
    draw: Draw
    rule: str


# Each function below makes a Draw out of pools of words.


def a_list(pool: Sequence[str], solve: Solve, *, sizes: tuple[int, int] = (2, 5), separator: str = " ") -> Draw:
    """Distinct items of a pool, answered by a list in the same form.

    >>> a_list(["cat"], lambda items: [item.upper() for item in items], sizes=(1, 1))(Random(0))
    ('cat', 'CAT')
    """

    def draw(rng: Random) -> tuple[str, str]:
        items = rng.sample(pool, rng.randint(*sizes))
        return separator.join(items), separator.join(solve(items))

    return draw


def a_mixed_list(wanted: Sequence[str], others: Sequence[str], solve: Solve, *, counts: tuple[int, int]) -> Draw:
    """Four or five items, of which a uniformly drawn number comes from ``wanted`` and the rest from ``others``."""

    def draw(rng: Random) -> tuple[str, str]:
        count = rng.randint(*counts)
        items = rng.sample(wanted, count) + rng.sample(others, rng.randint(4, 5) - count)
        rng.shuffle(items)
        return " ".join(items), " ".join(solve(items))

    return draw


def a_lookup(keys: Sequence[str], values: Sequence[str], *, backwards: bool = False) -> Draw:
    """Two to four pairs and a key (backwards: a value), answered by its partner: ``Ann 3, Ben 7. Ben`` is 7."""

    def draw(rng: Random) -> tuple[str, str]:
        size = rng.randint(2, 4)
        pairs = list(zip(rng.sample(keys, size), rng.sample(values, size), strict=True))
        asked, answer = reversed(rng.choice(pairs)) if backwards else rng.choice(pairs)
        return f"{', '.join(' '.join(pair) for pair in pairs)}. {asked}", answer

    return draw


def a_membership(pool: Sequence[str]) -> Draw:
    """A list and an item, answered by whether the list has it: ``cat dog fox. dog`` is yes."""

    def draw(rng: Random) -> tuple[str, str]:
        *items, stranger = rng.sample(pool, rng.randint(3, 5))
        asked, answer = rng.choice([(rng.choice(items), "yes"), (stranger, "no")])
        return f"{' '.join(items)}. {asked}", answer

    return draw


def a_choice(right: Sequence[str], wrong: Sequence[str]) -> Draw:
    """Three lettered options, one of which is right: ``A cat B red C soup`` is B for the color."""

    def draw(rng: Random) -> tuple[str, str]:
        answer = rng.randrange(3)
        options = rng.sample(wrong, 2)
        options.insert(answer, rng.choice(right))
        return " ".join(f"{letter} {option}" for letter, option in zip("ABC", options, strict=True)), "ABC"[answer]

    return draw


def a_template(template: str, *pools: Sequence[str]) -> Draw:
    """Items that fill the gaps of a sentence, in order: ``Ann red cat`` gives ``Ann has a red cat.``"""

    def draw(rng: Random) -> tuple[str, str]:
        items = [rng.choice(pool) for pool in pools]
        return " ".join(items), template.format(*items)

    return draw


def without(*kinds: str) -> list[str]:
    """Words of the other kinds, and numbers."""
    return [word for kind, pool in KINDS.items() if kind not in kinds for word in pool] + NUMBERS


# Answers used more than once. Numbers travel as text: "12" sorts after "7" by value.


def only(pool: Sequence[str]) -> Solve:
    return lambda items: [item for item in items if item in pool]


def all_but(pool: Sequence[str]) -> Solve:
    return lambda items: [item for item in items if item not in pool]


def count(pool: Sequence[str]) -> Solve:
    return lambda items: [str(sum(item in pool for item in items))]


def plus(amount: int) -> Solve:
    return lambda items: [str(int(item) + amount) for item in items]


def same(items: list[str]) -> list[str]:
    return items


def backwards(items: list[str]) -> list[str]:
    return items[::-1]


def capitals(items: list[str]) -> list[str]:
    return [item.upper() for item in items]


def ascending(items: list[str]) -> list[str]:
    return sorted(items, key=int)


def descending(items: list[str]) -> list[str]:
    return sorted(items, key=int, reverse=True)


# fmt: off
TASKS: tuple[ToyTask, ...] = (
    ToyTask("copy_words", "Text Copying", "train test", "Write the same words again.",
            a_list(WORDS, same), "The words are repeated as they stand."),
    ToyTask("copy_numbers", "Text Copying", "train", "Write the same numbers again.",
            a_list(NUMBERS, same, separator=", "), "The numbers are repeated as they stand."),
    ToyTask("copy_letters_twice", "Text Copying", "train", "Write the same letters two times.",
            a_list(LETTERS, lambda items: items * 2, sizes=(2, 4)), "The list stands there two times."),
    ToyTask("copy_names", "Text Copying", "test", "Write the same names again.",
            a_list(NAMES, same), "The names are repeated as they stand."),

    ToyTask("reverse_words", "Word Order", "train test", "Write the words in reverse order.",
            a_list(WORDS, backwards), "The last word comes first."),
    ToyTask("reverse_letters", "Word Order", "train", "Write the letters in reverse order.",
            a_list(LETTERS, backwards), "The last letter comes first."),
    ToyTask("reverse_names", "Word Order", "train dev", "Write the names from the last to the first.",
            a_list(NAMES, backwards, separator=", "), "The last name comes first."),
    ToyTask("reverse_numbers", "Word Order", "test", "Write the numbers in reverse order.",
            a_list(NUMBERS, backwards), "The last number comes first."),

    ToyTask("capital_words", "Letter Case", "train", "Write the words in capital letters.",
            a_list(WORDS, capitals), "Every letter is a capital."),
    ToyTask("small_words", "Letter Case", "train test", "Write the words in small letters.",
            lambda rng: (lambda text: (text.upper(), text))(a_list(WORDS, same)(rng)[0]), "Every letter is small."),
    ToyTask("capital_first_word", "Letter Case", "train", "Write the first word in capital letters.",
            a_list(WORDS, lambda items: capitals(items[:1])), "It is the first word, in capitals."),
    ToyTask("capital_last_word", "Letter Case", "dev", "Write the last word in capital letters.",
            a_list(WORDS, lambda items: capitals(items[-1:])), "It is the last word, in capitals."),

    ToyTask("count_words", "Counting", "train test", "How many words are there?",
            a_list(WORDS, lambda items: [str(len(items))], sizes=(2, 6)), "Every word counts one."),
    ToyTask("count_animals", "Counting", "train", "How many animals are there?",
            a_mixed_list(ANIMALS, without("animal"), count(ANIMALS), counts=(1, 4)), "Only animals count."),
    ToyTask("count_foods", "Counting", "train", "How many foods are there?",
            a_mixed_list(FOODS, without("food"), count(FOODS), counts=(1, 4)), "Only foods count."),
    ToyTask("count_colors", "Counting", "test", "How many colors are there?",
            a_mixed_list(COLORS, without("color"), count(COLORS), counts=(1, 4)), "Only colors count."),

    ToyTask("sort_numbers_up", "Sorting", "train test", "Sort the numbers from small to big.",
            a_list(NUMBERS, ascending, sizes=(2, 4)), "The smallest number comes first."),
    ToyTask("sort_words_up", "Sorting", "train", "Sort the words from a to z.",
            a_list(WORDS, sorted, sizes=(2, 4)), "The words stand as in a dictionary."),
    ToyTask("sort_words_down", "Sorting", "train", "Sort the words from z to a.",
            a_list(WORDS, lambda items: sorted(items)[::-1], sizes=(2, 4)), "The last of the alphabet comes first."),
    ToyTask("sort_numbers_down", "Sorting", "test", "Sort the numbers from big to small.",
            a_list(NUMBERS, descending, sizes=(2, 4)), "The biggest number comes first."),

    ToyTask("first_word", "Element Selection", "train", "Write the first word.",
            a_list(WORDS, lambda items: items[:1]), "It stands first."),
    ToyTask("last_word", "Element Selection", "train test", "Write the last word.",
            a_list(WORDS, lambda items: items[-1:]), "It stands last."),
    ToyTask("first_number", "Element Selection", "train", "Write the first number.",
            a_list(NUMBERS, lambda items: items[:1]), "It stands first."),
    ToyTask("last_number", "Element Selection", "test", "Write the last number.",
            a_list(NUMBERS, lambda items: items[-1:]), "It stands last."),

    ToyTask("biggest_number", "Comparison", "train test", "Write the biggest number.",
            a_list(NUMBERS, lambda items: [max(items, key=int)], sizes=(2, 4)), "No other number is bigger."),
    ToyTask("smallest_number", "Comparison", "train", "Write the smallest number.",
            a_list(NUMBERS, lambda items: [min(items, key=int)], sizes=(2, 4)), "No other number is smaller."),
    ToyTask("first_of_alphabet", "Comparison", "train dev", "Write the word that comes first from a to z.",
            a_list(WORDS, lambda items: [min(items)], sizes=(2, 4)), "A dictionary has it before the others."),

    ToyTask("number_of_name", "Key Lookup", "train", "Write the number of the last name.",
            a_lookup(NAMES, NUMBERS), "It stands after the name."),
    ToyTask("color_of_name", "Key Lookup", "train test", "Write the color of the last name.",
            a_lookup(NAMES, COLORS), "It stands after the name."),
    ToyTask("name_of_color", "Key Lookup", "train", "Write the name of the last color.",
            a_lookup(NAMES, COLORS, backwards=True), "It stands before the color."),
    ToyTask("animal_of_name", "Key Lookup", "test", "Write the animal of the last name.",
            a_lookup(NAMES, ANIMALS), "It stands after the name."),

    ToyTask("add_one", "Arithmetic", "train test", "Add one to each number.",
            a_list(NUMBERS, plus(1), sizes=(2, 4)), "Each number is one bigger."),
    ToyTask("add_two", "Arithmetic", "train", "Add two to each number.",
            a_list(NUMBERS, plus(2), sizes=(2, 4)), "Each number is two bigger."),

    ToyTask("kind_of_each", "Tagging", "train test", "Write the kind of each word.",
            a_list(WORDS, lambda items: [KIND_OF[item] for item in items], sizes=(2, 4)), "Each word has its kind."),
    ToyTask("kind_of_first", "Tagging", "train", "Write the kind of the first word.",
            a_list(WORDS, lambda items: [KIND_OF[items[0]]], sizes=(2, 4)), "It is the kind of the first word."),
    ToyTask("kind_of_last", "Tagging", "dev", "Write the kind of the last word.",
            a_list(WORDS, lambda items: [KIND_OF[items[-1]]], sizes=(2, 4)), "It is the kind of the last word."),

    ToyTask("only_animals", "Filtering", "train", "Write only the animals.",
            a_mixed_list(ANIMALS, without("animal"), only(ANIMALS), counts=(1, 3)), "The rest is left out."),
    ToyTask("only_foods", "Filtering", "train test", "Write only the foods.",
            a_mixed_list(FOODS, without("food"), only(FOODS), counts=(1, 3)), "The rest is left out."),
    ToyTask("all_but_colors", "Filtering", "train", "Write all but the colors.",
            a_mixed_list(COLORS, without("color"), all_but(COLORS), counts=(1, 3)), "The colors are left out."),
    ToyTask("only_colors", "Filtering", "test", "Write only the colors.",
            a_mixed_list(COLORS, without("color"), only(COLORS), counts=(1, 3)), "The rest is left out."),

    ToyTask("has_word", "Membership", "train test", "Is the last word in the list? Write yes or no.",
            a_membership(WORDS), "The list is searched for the word."),
    ToyTask("has_number", "Membership", "train", "Is the last number in the list? Write yes or no.",
            a_membership(NUMBERS), "The list is searched for the number."),

    ToyTask("choose_animal", "Multiple Choice", "train", "Write the letter of the animal.",
            a_choice(ANIMALS, COLORS + FOODS), "The letter stands before the animal."),
    ToyTask("choose_color", "Multiple Choice", "train", "Write the letter of the color.",
            a_choice(COLORS, ANIMALS + FOODS), "The letter stands before the color."),
    ToyTask("choose_food", "Multiple Choice", "test", "Write the letter of the food.",
            a_choice(FOODS, ANIMALS + COLORS), "The letter stands before the food."),

    ToyTask("name_has_animal", "Template Filling", "train", "Fill in: name has a color animal.",
            a_template("{} has a {} {}.", NAMES, COLORS, ANIMALS), "The words fill the sentence in order."),
    ToyTask("name_eats_food", "Template Filling", "train dev", "Fill in: name eats number color food.",
            a_template("{} eats {} {} {}.", NAMES, NUMBERS, COLORS, FOODS), "The words fill the sentence in order."),

    ToyTask("find_color", "Keyword Extraction", "test", "Write the color.",
            a_mixed_list(COLORS, without("color"), only(COLORS), counts=(1, 1)), "It is the only color."),
    ToyTask("find_animal", "Keyword Extraction", "test", "Write the animal.",
            a_mixed_list(ANIMALS, without("animal"), only(ANIMALS), counts=(1, 1)), "It is the only animal."),
    ToyTask("drop_first", "List Editing", "test", "Write all words but the first.",
            a_list(WORDS, lambda items: items[1:]), "The first word is left out."),
    ToyTask("swap_ends", "List Editing", "test", "Write the last word, then the first word.",
            a_list(WORDS, lambda items: [items[-1], items[0]]), "The last word comes before the first."),
    ToyTask("same_lists", "Text Matching", "test", "Is the first word the same as the last word? Write yes or no.",
            lambda rng: (lambda items, match: (" ".join([*items[:-1], items[0] if match else items[-1]]),
                                               "yes" if match else "no"))(rng.sample(WORDS, 4), rng.random() < 0.5),
            "The two words are compared."),
    ToyTask("is_bigger", "Text Matching", "test", "Is the first number the biggest number? Write yes or no.",
            lambda rng: (lambda items, high: (" ".join([str(max(items) if high else min(items)), str(sorted(items)[1]),
                                                        str(min(items) if high else max(items))]),
                                              "yes" if high else "no"))(rng.sample(range(1, 21), 3), rng.random() < 0.5),
            "The two numbers are compared."),
)
# fmt: on
