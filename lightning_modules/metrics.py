"""stub, being replaced"""
from typing import NamedTuple
import torch
from torchmetrics import Metric
from rouge_score import rouge_scorer
from ..datamodules.schema import EvaluationExample
_S = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
class Scores(NamedTuple):
    example_index: torch.Tensor
    task_index: torch.Tensor
    rouge_l: torch.Tensor
    exact_match: torch.Tensor
class Answer(NamedTuple):
    example: EvaluationExample
    prediction: str
    rouge_l: float
    exact_match: bool
    @classmethod
    def of(cls, example, prediction):
        return cls(example, prediction, max(_S.score(r, prediction)["rougeL"].fmeasure for r in example.references), any(prediction.strip() == r.strip() for r in example.references))
class GenerationScores(Metric):
    def __init__(self):
        super().__init__()
        self.rows = []
    def update(self, answers):
        self.rows += answers
    def compute(self):
        r = sorted(self.rows, key=lambda a: a.example.index)
        return Scores(torch.tensor([a.example.index for a in r]), torch.tensor([a.example.task_index for a in r]), torch.tensor([a.rouge_l for a in r]), torch.tensor([float(a.exact_match) for a in r]))
    def reset(self):
        super().reset(); self.rows = []
