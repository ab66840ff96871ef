"""Few-shot prompts of both levels: inner instances have learned demonstrations, outer instances random ones.

Inner prompts are those of training with demonstrations (MetaICL), but an extractor chooses the demonstrations among the
instance's exemplars. Outer prompts are those of few-shot evaluation.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..evaluation.few_shot import shared_demonstrations
from ..evaluation.prompt_lengths import PromptLengths, most_fitting
from ..packing.collate import CausalRows, Seq2SeqRows
from ..rendering.demonstrations import POOL_SIZE, solved_text, with_demonstrations, without_example
from ..rendering.example_cache import ExampleSubset
from ..rendering.prompts import PromptForm, rendering_rng
from ..rendering.special_tokens import encode
from ..schema import Example, Prompt, Task
from ..splits import answered_texts
from ..storage.preparation import Preparation
from .bilevel_report import TaskInstances
from .exemplars import ExemplarPools, TaskExemplar, fewest_others
from .instance_rows import cut_source
from .prompt_pieces import EncodedPieces, PromptPieces, encode_pieces, prompt_pieces


@dataclass(frozen=True)
class LevelShots:
    """Settings of few-shot prompts in instruction optimization.

    An exemplar is a solved training example of the same task. Inner instances train the model; an extractor, a learned
    choice, picks their k demonstrations among several exemplars. Outer instances train the extractor; their
    demonstrations are random. The source of a prompt is all its text before the target.

    Args:
        number: Number of demonstrations in a prompt, k.
        separator: Text between the examples of an inner prompt.
        outer_separator: Text between the examples of an outer prompt.
        longest: Maximum number of tokens of an exemplar; longer examples are not used as exemplars.
        longest_source: Maximum number of tokens of an outer prompt's source; demonstrations are dropped until it fits.
    """

    number: int
    separator: str
    outer_separator: str
    longest: int
    longest_source: int


class FewShotLevels:
    """Renders training instances as few-shot prompts: inner ones with exemplars to choose from, outer ones as usual.

    An extractor is trained to choose k of an inner instance's exemplars as its demonstrations. Outer instances, whose
    loss trains the extractor, have k random demonstrations.

    Args:
        preparation: Settings of tokenization, with tokenizer and seed.
        inner: Inner tasks and their instances.
        outer: Outer tasks and their instances.
        shots: Settings of the demonstrations.
        pools: Draws the exemplars of an inner instance.
        inner_form: Prompt form of inner instances.
        outer_form: Prompt form of outer instances.

    Attributes:
        usable: The examples of each inner task that can be exemplars, by task.
        unused: Number of inner instances that cannot be exemplars, by reason.
        fewer_inner: Number of inner tasks with fewer exemplars than demonstrations in a prompt.
        fewer_outer: Number of outer tasks with fewer instances to draw from than demonstrations in a prompt.

    Raises:
        ValueError: A form has no place for demonstrations, or the tokenizer merges text across their separator.
    """

    def __init__(
        self,
        preparation: Preparation,
        inner: Sequence[TaskInstances],
        outer: Sequence[TaskInstances],
        shots: LevelShots,
        pools: ExemplarPools,
        *,
        inner_form: PromptForm,
        outer_form: PromptForm,
    ) -> None:
        self.preparation, self.shots, self.pools = preparation, shots, pools
        self.inner_form, self.outer_form = inner_form, outer_form
        self._lengths = PromptLengths(preparation)
        self.unused: Counter[str] = Counter()
        self.usable = {task.name: self._usable(task, examples) for task, examples in inner}
        self.outer_pools = {task.name: self._outer_pool(task, examples) for task, examples in outer}
        for task, examples in inner:
            encode_pieces(preparation, self.pieces(task, examples[0], epoch=0))  # a tokenizer that cannot is rejected
        self.fewer_inner = sum(
            pools.fewest(self.usable[task.name], examples) < shots.number for task, examples in inner
        )
        self.fewer_outer = sum(
            fewest_others(self.outer_pools[task.name], examples) < shots.number for task, examples in outer
        )

    def _usable(self, task: Task, examples: Sequence[Example]) -> list[Example]:
        """Return the examples that can be exemplars: not too long, and of different texts; count the others."""
        solved = [self.solved(task, example) for example in examples]
        kept, texts = [], set[str]()
        for example, ids in zip(examples, encode(self.preparation.tokenizer, solved), strict=True):
            if len(ids) > self.shots.longest:
                self.unused["too long"] += 1
            elif not texts.isdisjoint(own := answered_texts(example)):
                self.unused["with the text of another"] += 1
            else:
                texts |= own
                kept.append(example)
        return kept

    def _outer_pool(self, task: Task, examples: Sequence[Example]) -> list[Example]:
        """Return a random sample of an outer task's examples, from which its demonstrations are drawn."""
        ordered = sorted(examples, key=lambda example: example.index)
        return ExampleSubset(ordered, range(len(ordered))).sample(POOL_SIZE, (self.preparation.seed, task.name))

    def solved(self, task: Task, example: Example) -> str:
        """Return the text of an example as an exemplar: its prompt without instructions, its target, a separator."""
        rng = rendering_rng(self.preparation.seed, task.name, example.id)
        return solved_text(self.inner_form.parts(task, example, rng)) + self.shots.separator

    def shared_exemplars(self, inner: Sequence[TaskInstances]) -> list[list[TaskExemplar]]:
        """Return the exemplars of each inner task, among which the demonstrations of all its instances are chosen."""
        return [
            [TaskExemplar(one.id, self.solved(task, one)) for one in self.pools.of_task(self.usable[task.name]) if one]
            for task, _ in inner
        ]

    def pieces(self, task: Task, example: Example, epoch: int) -> PromptPieces:
        """Return an instance's prompt as separate texts: the instructions, each exemplar, and the query.

        The model's extractor chooses later which exemplars stay in the prompt as demonstrations. Only instances of
        inner tasks, which train the model, have such prompts.

        Args:
            task: The task.
            example: The instance.
            epoch: Index of the epoch; random choices of the prompt form differ between epochs.
        """
        exemplars = [one for one in self.pools.draw(self.usable[task.name], example) if one is not None]
        generator = partial(rendering_rng, self.preparation.seed, task.name, example.id, epoch)
        return prompt_pieces(self.inner_form, task, example, exemplars, generator, self.shots.separator)

    def inner_prompt(self, task: Task, example: Example, epoch: int) -> Prompt:
        """Return an inner instance's prompt with its first k exemplars, as if an extractor had chosen these."""
        pieces = self.pieces(task, example, epoch)
        shown = pieces.exemplars[: self.shots.number]
        return Prompt("".join([pieces.head, *shown, pieces.query]), pieces.target)

    def fitted(self, pieces: EncodedPieces, kind: CausalRows | Seq2SeqRows) -> tuple[EncodedPieces, int]:
        """Truncate a prompt to the length of a row, and count the demonstrations that fit into it.

        Demonstrations are dropped first, then the beginning of the instructions, then the beginning of the query. It is
        not known yet which exemplars are chosen, so each is counted with the length of the longest.

        Args:
            pieces: Tokens of the prompt, with all exemplars.
            kind: Rows of a decoder-only or of an encoder-decoder model, with their lengths.

        Returns:
            The prompt with truncated instructions and query, and the number of demonstrations, at most k.
        """
        pair = isinstance(kind, Seq2SeqRows)
        document = cut_source(pieces.document, kind.capacity, keep_end=True, pair=pair)
        room = max(kind.capacity - (document.n_source if pair else len(document.input_ids)), 0)
        head = pieces.head[max(len(pieces.head) - room, 0) :]
        longest = max(map(len, pieces.exemplars), default=0)
        places = min((room - len(head)) // longest, self.shots.number) if longest else 0
        return pieces._replace(head=head, document=document), places

    def outer_prompt(self, task: Task, example: Example, epoch: int) -> Prompt:
        """Return an outer instance's prompt with k random demonstrations, or as many as fit, as in an evaluation."""
        number = self.shots.number
        drawn = shared_demonstrations(
            self.outer_pools[task.name], task.name, example.template, number + 1, seed=self.preparation.seed
        )  # one more: the example may be among them
        shown = without_example(drawn, example)[:number]
        generator = partial(rendering_rng, self.preparation.seed, task.name, example.id, epoch)

        def prompt(shots: int) -> Prompt:
            separator = self.shots.outer_separator
            return with_demonstrations(self.outer_form, task, example, shown[:shots], generator, separator)

        query = self.outer_form.parts(task, example, generator()).query
        fits = self._lengths.fits(self.shots.longest_source, query)
        return prompt(most_fitting(len(shown), lambda shots: fits(prompt(shots))))
