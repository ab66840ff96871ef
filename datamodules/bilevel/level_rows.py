"""Rows of inner and outer instances: renders, tokenizes and pads them, with the inputs of learnable instructions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..packing.collate import CausalRows, Seq2SeqRows
from ..packing.replicas import Replicas
from ..rendering.prompts import PromptForm, rendering_rng
from ..schema import Prompt
from ..storage.preparation import Preparation
from .bilevel_report import TaskInstances
from .exemplars import (
    ExemplarPools,
    InstructionInputs,
    TaskExemplar,
    encode_exemplars,
    encode_pairs,
    exemplar_texts,
    pair_texts,
)
from .few_shot_levels import FewShotLevels, LevelShots
from .instance_rows import LanguageRows, cut_source, padded_rows
from .level_instances import Instance
from .prompt_pieces import encode_pieces, stack_exemplars, stack_heads

Drawn = tuple[Instance, int]
"""An instance of a level, and the index of the epoch in which it is drawn."""


class InnerBatch(NamedTuple):
    """Batch of inner instances, which train the model: rows, and what their learnable instructions are computed from.

    Args:
        rows: One row per instance, without its instruction.
        inputs: Inputs of the instructions, in the order of the rows.
    """

    rows: LanguageRows
    inputs: InstructionInputs


@dataclass(frozen=True)
class TextSettings:
    """Settings by which inner and outer instances are rendered, tokenized and truncated.

    Args:
        prompt: Prompt form of the outer instances, with human-written instructions.
        inner_prompt: Prompt form of the inner instances, whose text follows the learnable instruction.
        rows: Rows of a decoder-only or of an encoder-decoder model, with their largest lengths.
        reserve: Columns of an inner row that are kept free for the instruction.
        keep_end: Whether a source that is too long keeps its end (true) or its beginning (false).
        pair_length: Maximum number of tokens of z, the text that an embedder's instruction is computed from.
        pair_target: Whether z contains the target.
        exemplar_length: Maximum number of tokens of an exemplar.
        pools: Draws the exemplars; None if the instruction uses none.
        numbered: Whether exemplars begin with "Positive Example 1 -" or with "Positive Example -".
        blank_fields: Whether a blank exemplar is the text of one with empty fields, or padding.
        shots: Settings of few-shot prompts, if exemplars are chosen as demonstrations; None for zero-shot prompts.
    """

    prompt: PromptForm
    inner_prompt: PromptForm
    rows: CausalRows | Seq2SeqRows
    reserve: int
    keep_end: bool
    pair_length: int
    pair_target: bool
    exemplar_length: int
    pools: ExemplarPools | None
    numbered: bool = False
    blank_fields: bool = False
    shots: LevelShots | None = None


class LevelRows:
    """Renders and tokenizes training instances into batches of one instance per row.

    Inner instances train the model behind learnable instructions, and come with the inputs of these. Outer instances
    train the instructions, and have human-written ones.

    Args:
        preparation: Settings of tokenization, with tokenizer and seed.
        inner: Inner tasks and their instances.
        outer: Outer tasks and their instances.
        text: Settings of rendering and of the instructions' inputs.
    """

    def __init__(
        self,
        preparation: Preparation,
        inner: Sequence[TaskInstances],
        outer: Sequence[TaskInstances],
        text: TextSettings,
    ) -> None:
        self.preparation, self.inner, self.outer, self.text = preparation, inner, outer, text
        self.few_shot = self._few_shot_levels()

    def _few_shot_levels(self) -> FewShotLevels | None:
        text = self.text
        if text.shots is None:
            return None
        assert text.pools is not None
        forms = {"inner_form": text.inner_prompt, "outer_form": text.prompt}
        return FewShotLevels(self.preparation, self.inner, self.outer, text.shots, text.pools, **forms)

    def prompt(self, tasks: Sequence[TaskInstances], instance: Instance, *, epoch: int = 0) -> Prompt:
        """Render a training instance as a prompt, without its learnable instruction.

        If the module chooses demonstrations among exemplars, a prompt of the tasks with learnable instructions has its
        first k exemplars.

        Args:
            tasks: The attribute ``inner`` (tasks with learnable instructions) or ``outer`` (tasks without).
            instance: Instance of these tasks.
            epoch: Index of the epoch; in each epoch one of the instance's references is drawn as the target.
        """
        task, examples = tasks[instance.task]
        example, inner = examples[instance.example], tasks is self.inner
        if self.few_shot is not None:
            render = self.few_shot.inner_prompt if inner else self.few_shot.outer_prompt
            return render(task, example, epoch)
        form = self.text.inner_prompt if inner else self.text.prompt
        return form(task, example, rendering_rng(self.preparation.seed, task.name, example.id, epoch))

    def shared_exemplars(self) -> list[list[TaskExemplar]]:
        """Return the exemplars of each inner task: solved examples, among which the module chooses an instruction.

        The list is empty if instructions use no exemplars, or if every instance has other ones.
        """
        pools = self.text.pools
        if pools is None or pools.of != "task":
            return []
        if self.few_shot is not None:
            return self.few_shot.shared_exemplars(self.inner)
        numbered = self.text.numbered
        return [
            [
                TaskExemplar("", "") if e is None else TaskExemplar(e.id, "".join(exemplar_texts(e, numbered=numbered)))
                for e in pools.of_task(examples)
            ]
            for _, examples in self.inner
        ]

    def outer_batch(self, drawn: Sequence[Drawn], here: Replicas) -> LanguageRows:
        """Return one replica's batch of outer instances, whose loss trains the instructions, one per row.

        Args:
            drawn: The instances of all replicas, each with the epoch in which it is drawn.
            here: This process's replica, and the number of replicas.
        """
        prompts = [self.prompt(self.outer, instance, epoch=epoch) for instance, epoch in drawn]
        return self._rows(prompts, here, reserve=0)

    def inner_batch(self, drawn: Sequence[Drawn], here: Replicas) -> InnerBatch:
        """Return one replica's batch of inner instances, which train the model behind learnable instructions.

        Each instance is one row, and comes with the inputs from which its instruction is computed.

        Args:
            drawn: The instances of all replicas, each with the epoch in which it is drawn.
            here: This process's replica, and the number of replicas.
        """
        if self.few_shot is not None:
            return self._few_shot_rows(self.few_shot, drawn, here)
        prompts = [self.prompt(self.inner, instance, epoch=epoch) for instance, epoch in drawn]
        instances, text = [instance for instance, _ in here.share(drawn)], self.text
        inputs = self._pair_inputs(instances, here.share(prompts))
        if text.pools is not None:
            pools = [(self.inner[task].examples, index) for task, index in instances]
            exemplars = [text.pools.draw(examples, examples[index]) for examples, index in pools]
            tokenizer, longest = self.preparation.tokenizer, text.exemplar_length
            worded = {"numbered": text.numbered, "blank_fields": text.blank_fields}
            ids, mask = encode_exemplars(tokenizer, exemplars, longest=longest, **worded)
            inputs = inputs._replace(exemplar_ids=ids, exemplar_mask=mask)
        return InnerBatch(self._rows(prompts, here, reserve=text.reserve), inputs)

    def _few_shot_rows(self, few_shot: FewShotLevels, drawn: Sequence[Drawn], here: Replicas) -> InnerBatch:
        kind, preparation = self.text.rows, self.preparation
        texts = []
        for (task, index), epoch in drawn:
            of_task = self.inner[task]
            texts.append(few_shot.pieces(of_task.task, of_task.examples[index], epoch))
        fitted = [few_shot.fitted(encode_pieces(preparation, pieces), kind) for pieces in texts]
        rows = padded_rows([pieces.document for pieces, _ in fitted], kind, here, room=kind.capacity)
        prompts = [Prompt(pieces.query, pieces.target) for pieces in here.share(texts)]
        inputs = self._pair_inputs([instance for instance, _ in here.share(drawn)], prompts)
        mine, padding = here.share(fitted), preparation.tokenizer.pad_token_id
        pieces, number = [one for one, _ in mine], few_shot.pools.exemplars
        exemplar_ids, exemplar_mask = stack_exemplars(pieces, number, padding)
        head_ids, head_mask = stack_heads(pieces, padding)
        places = torch.tensor([places for _, places in mine])
        inputs = inputs._replace(exemplar_ids=exemplar_ids, exemplar_mask=exemplar_mask)
        return InnerBatch(rows, inputs._replace(head_ids=head_ids, head_mask=head_mask, places=places))

    def _pair_inputs(self, instances: Sequence[Instance], prompts: Sequence[Prompt]) -> InstructionInputs:
        text = self.text
        examples = [self.inner[task].examples[index] for task, index in instances]
        pairs = [
            pair_texts(example, prompt.target if text.pair_target else None)
            for example, prompt in zip(examples, prompts, strict=True)
        ]
        tasks = torch.tensor([task for task, _ in instances])
        return InstructionInputs(tasks, *encode_pairs(self.preparation.tokenizer, pairs, longest=text.pair_length))

    def _rows(self, prompts: list[Prompt], here: Replicas, *, reserve: int) -> LanguageRows:
        kind = self.text.rows
        room, pair = kind.capacity - reserve, isinstance(kind, Seq2SeqRows)
        documents = [
            cut_source(document, room, keep_end=self.text.keep_end, pair=pair)
            for document in self.preparation.tokenize(prompts)
        ]
        return padded_rows(documents, kind, here, room=room)
