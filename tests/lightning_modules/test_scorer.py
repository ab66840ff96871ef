"""The scorer as a Lightning module: its layout, its loss, its ranking, and training through the command line."""

import csv
import json
import math
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from argument_groups import with_changes
from recipes import store_of
from transformers import (
    AutoModelForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

import crosstask
from crosstask.cli import main
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.packing.replicas import Replicas
from crosstask.datamodules.packing.train_stream import TrainPlan, TrainStream
from crosstask.datamodules.schema import EvaluationExample, ScoredBatch
from crosstask.datamodules.scorer import ScorerDataModule
from crosstask.datamodules.scoring.response_sets import ResponseBatch
from crosstask.datamodules.scoring.scorer_settings import PairRows
from crosstask.datamodules.splits import Instances
from crosstask.datamodules.toybench.tasks import POOLS
from crosstask.lightning_modules import planned_training, scorer
from crosstask.lightning_modules.models import Network
from crosstask.lightning_modules.optimization import Optimization
from crosstask.lightning_modules.scorer import ScorerModule
from crosstask.lightning_modules.scoring.pair_scores import pair_scores
from crosstask.lightning_modules.scoring.ranking_metrics import ResponseRankingMetric

CONFIG = Path(crosstask.__file__).parent / "configs" / "scorer_toybench.yaml"
FIELDS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 130,
    "initializer_range": 0.2,
}


@pytest.fixture
def make_module(toybench: Path) -> Callable[..., ScorerModule]:
    def make(**arguments: Any) -> ScorerModule:
        torch.manual_seed(0)
        if "pretrained" not in arguments:
            arguments = {"config": {"model_type": "roberta", **FIELDS}, **arguments}
        module = ScorerModule(str(toybench / "tokenizer"), row_length=256, total_steps=10, **arguments)
        module.configure_model()
        return module

    return make


@pytest.fixture
def plan(toybench: Path, tmp_path: Path) -> TrainPlan:
    data = ScorerDataModule(
        NaturalInstructions(str(toybench)),
        str(toybench / "tokenizer"),
        # In order, so that rows hold different numbers of pairs.
        rows=PairRows(length=256, pair_length=96, per_step=4, packing="in_order"),
        instances=Instances(train=10, validation=0),
        cache=str(store_of(toybench)),
    )
    data.prepare_data()
    data.setup("fit")
    assert data.plan is not None
    return data.plan


def saved_by_transformers(toybench: Path, folder: Path, model_class: Any, **fields: Any) -> Any:
    vocabulary = len(json.loads((toybench / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    model = model_class(RobertaConfig(vocab_size=vocabulary, pad_token_id=0, **FIELDS, **fields))
    model.save_pretrained(folder)
    return model


def names_and_shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in model.state_dict().items()}


# --- layout ---


def test_a_checkpoint_of_transformers_loads_with_every_weight(
    toybench: Path, tmp_path: Path, make_module: Callable[..., ScorerModule]
) -> None:
    theirs = saved_by_transformers(toybench, tmp_path, RobertaForSequenceClassification, num_labels=1).eval()
    ours = make_module(pretrained=str(tmp_path)).scorer.eval()
    assert names_and_shapes(ours) == names_and_shapes(theirs)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    ids = torch.randint(4, 200, (3, 17))
    mask = torch.ones_like(ids)
    torch.testing.assert_close(ours(ids, mask).logits, theirs(ids, mask).logits)


def test_a_saved_scorer_is_the_layout_of_transformers(tmp_path: Path, make_module: Callable[..., ScorerModule]) -> None:
    ours = make_module().scorer.eval()
    ours.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["RobertaForSequenceClassification"]
    assert config["problem_type"] == "regression"
    theirs, loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs) is RobertaForSequenceClassification
    assert theirs.config.num_labels == 1
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    ids = torch.randint(4, 200, (3, 17))
    torch.testing.assert_close(theirs.eval()(ids, torch.ones_like(ids)).logits, ours(ids, torch.ones_like(ids)).logits)


def test_a_bare_encoder_gets_a_new_head(
    toybench: Path, tmp_path: Path, make_module: Callable[..., ScorerModule]
) -> None:
    theirs = saved_by_transformers(toybench, tmp_path, RobertaForMaskedLM).roberta.state_dict()
    ours = make_module(pretrained=str(tmp_path)).scorer
    assert ours.classifier.out_proj.weight.shape == (1, 32)  # type: ignore[union-attr]
    for name, weight in ours.roberta.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(theirs[name], weight), name


def test_a_head_of_another_size_is_rejected(
    toybench: Path, tmp_path: Path, make_module: Callable[..., ScorerModule]
) -> None:
    saved_by_transformers(toybench, tmp_path, RobertaForSequenceClassification, num_labels=2)
    with pytest.raises(ValueError, match="has a head of 2 outputs, and a scorer has one"):
        make_module(pretrained=str(tmp_path))


def test_weights_come_from_one_place(toybench: Path) -> None:
    with pytest.raises(ValueError, match=r"give either `pretrained` .* or `config`"):
        ScorerModule(str(toybench / "tokenizer"))


# --- loss ---


def one_by_one(model: Any, batches: list[ScoredBatch]) -> torch.Tensor:
    """The mean squared error of all pairs, each read alone by transformers' own forward."""
    errors = []
    for batch in batches:
        ends = dict(zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True))
        for start, label in zip(batch.scored.tolist(), batch.labels, strict=True):
            ids = batch.input_ids.flatten()[None, start : ends[start]]
            errors.append((model(ids, torch.ones_like(ids)).logits[0, 0] - label) ** 2)
    return torch.stack(errors).mean()


@pytest.mark.parametrize(
    ("size", "accumulation", "model_type"),
    [(1, 1, "roberta"), (2, 1, "roberta"), (2, 2, "roberta"), (2, 2, "distilbert")],  # the last one cannot be packed
)
def test_the_gradient_is_that_of_one_mean_over_all_pairs_of_the_step(
    size: int,
    accumulation: int,
    model_type: str,
    plan: TrainPlan,
    make_module: Callable[..., ScorerModule],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = make_module(network=Network(dtype="float64", dropout=0.0), config={"model_type": model_type, **FIELDS})
    module.scorer.eval()  # attention dropout has no setting of the module
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batches = []
    for rank in range(size):
        here = Replicas(size, rank, accumulation)
        monkeypatch.setattr(planned_training, "replicas", lambda trainer, here=here: here)
        for batch in islice(iter(TrainStream(plan, here, steps=1)), accumulation):
            assert isinstance(batch, ScoredBatch)
            batches.append(batch)
            # What follows a step: gradients are averaged over replicas and divided by accumulated batches.
            (module.training_step(batch, 0) / (size * accumulation)).backward()
    packed = [weight.grad for weight in module.scorer.parameters()]
    module.zero_grad()
    assert len({len(batch.scored) for batch in batches}) > 1 or len(batches) == 1  # a mean of means would differ
    one_by_one(module.scorer, batches).backward()
    largest = 0.0
    for ours, weight in zip(packed, module.scorer.parameters(), strict=True):
        if weight.grad is None:
            assert ours is None
            continue
        torch.testing.assert_close(ours, weight.grad, atol=1e-10, rtol=1e-8)
        largest = max(largest, float(weight.grad.abs().max()))
    assert largest > 1e-3


def test_scores_are_raw_outputs(plan: TrainPlan, make_module: Callable[..., ScorerModule]) -> None:
    """No sigmoid, no clipping: a bias moves scores out of [0, 1] by as much."""
    module = make_module()
    module.scorer.eval()
    batch = next(iter(TrainStream(plan, Replicas(), steps=1)))
    assert isinstance(batch, ScoredBatch)
    before = pair_scores(module.scorer, batch)
    with torch.no_grad():
        module.scorer.classifier.out_proj.bias += 7  # type: ignore[union-attr, operator]
    torch.testing.assert_close(pair_scores(module.scorer, batch), before + 7)


def test_the_same_model_scores_outside_lightning(plan: TrainPlan, make_module: Callable[..., ScorerModule]) -> None:
    module = make_module(network=Network(dtype="float64"))
    batch = next(iter(TrainStream(plan, Replicas(), steps=1)))
    assert isinstance(batch, ScoredBatch)
    start, end = int(batch.scored[1]), int(batch.offsets[2])
    ids, eos = batch.input_ids.flatten()[start:end].tolist(), 1
    joint = ids.index(eos, 1)  # </s> instruction </s></s> response </s>
    texts = [module.tokenizer.decode(part) for part in (ids[1:joint], ids[joint + 2 : -1])]  # type: ignore[union-attr]
    scores = module.cross_encoder(max_length=96).score(texts[:1], texts[1:])
    module.scorer.eval()
    torch.testing.assert_close(scores[0], pair_scores(module.scorer, batch)[1].detach(), atol=1e-10, rtol=0)


def test_pairs_without_positions_are_rejected(plan: TrainPlan, make_module: Callable[..., ScorerModule]) -> None:
    module = make_module(config={"model_type": "roberta", **FIELDS, "max_position_embeddings": 12})
    batch = next(iter(TrainStream(plan, Replicas(), steps=1)))
    assert isinstance(batch, ScoredBatch)
    with pytest.raises(ValueError, match="exceed the 11 positions of the model"):
        pair_scores(module.scorer, batch)


@pytest.mark.parametrize(("share", "peak"), [(0.1, 1), (0.25, 3), (0.0, 0)])
def test_a_share_of_the_steps_warms_up(share: float, peak: int, make_module: Callable[..., ScorerModule]) -> None:
    optimizers: Any = make_module(optimizer=Optimization(learning_rate=1.0, warmup=share)).configure_optimizers()
    optimizer, schedule = optimizers["optimizer"], optimizers["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert all(later > earlier for earlier, later in pairwise(rates[:peak]))
    assert all(later < earlier for earlier, later in pairwise(rates[peak:]))
    assert schedule.get_last_lr() == [0.0, 0.0]


# --- ranking ---


def test_ranking_scores_are_per_example_and_counted_once() -> None:
    metric = ResponseRankingMetric()
    first = torch.tensor([0.1, 0.9, 0.5]), torch.tensor([0.0, 0.5, 1.0])
    second = torch.tensor([0.3, 0.3]), torch.tensor([1.0, 0.0])
    metric.update([1, 0], [first[0], second[0]], [first[1], second[1]])
    metric.update((), (), ())
    metric.update([1], [first[0]], [first[1]])
    found = metric.compute()
    assert found.number.tolist() == [0, 1]
    assert found.accuracy.tolist() == [0.5, 0.0]
    assert found.regret.tolist() == [0.5, 0.5]
    assert np.isnan(found.spearman[0])  # right or wrong, nothing between
    assert found.spearman[1] == pytest.approx(0.5)


def test_the_best_scored_candidate_is_the_answer(
    make_module: Callable[..., ScorerModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = [
        EvaluationExample(number, "t", "c", "fully_held_out", str(number), "?", (right,))
        for number, right in enumerate(["b", "y"])
    ]
    # Responses a b c of the first example and x y of the second, packed as c y a x b.
    labels = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
    empty = torch.empty(0, dtype=torch.int64)
    pairs = ScoredBatch(empty, empty, empty, empty, torch.arange(5), labels, 5, 1)
    batch = ResponseBatch(pairs, torch.tensor([2, 4, 0, 3, 1]), tuple(sampled), (("a", "b", "c"), ("x", "y")))
    monkeypatch.setattr(scorer, "pair_scores", lambda model, pairs: torch.tensor([0.3, 0.2, 0.1, 0.8, 0.9]))
    module = make_module()
    answers = module.validation_step(batch, 0)
    assert [answer.prediction for answer in answers] == ["b", "x"]
    assert [answer.exact_match for answer in answers] == [True, False]
    assert module.ranking_scores.compute().accuracy.tolist() == [1.0, 0.0]
    assert module.evaluation_loss.compute() == pytest.approx((0.3**2 + 0.8**2 + 0.1**2 + 0.8**2 + 0.1**2) / 5)


# --- through the command line ---


@pytest.fixture(scope="module")
def kinds(toybench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task of the real format: the kind of the animal, color or food before a number."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "tasks").mkdir()
    (folder / "splits").mkdir()
    instances = [
        {"id": f"{word}-{number}", "input": f"{word} {number}", "output": [kind]}
        for number in range(1, 13)
        for kind in ("animal", "color", "food")
        for word in POOLS[kind]
    ]
    task = {"Definition": ["Write the kind."], "Categories": ["Tagging"], "Instances": instances}
    task |= {"Positive Examples": [], "Negative Examples": [], "Source": ["toy"]}
    (folder / "tasks" / "task1_kind.json").write_text(json.dumps(task))
    for split in ("train", "test"):
        (folder / "splits" / f"{split}_tasks.txt").write_text("task1_kind\n")
    return folder


def shrink(kinds: Path, toybench: Path, tmp_path: Path, **trainer: Any) -> Path:
    """The recipe as it ships, with what makes it small laid over it."""
    recipe = yaml.safe_load(CONFIG.read_text())
    recipe["trainer"] |= {
        "max_steps": 160,
        "val_check_interval": 160,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(tmp_path / "run"),
    }
    recipe["trainer"] |= {"enable_progress_bar": False, **trainer}
    recipe["trainer"]["default_root_dir"] = str(tmp_path / "run")
    for callback in recipe["trainer"]["callbacks"]:
        if callback["class_path"] == "ModelCheckpoint":
            callback["init_args"]["dirpath"] = str(tmp_path)
    recipe["model"]["init_args"]["optimizer"]["learning_rate"] = 3e-3
    recipe["model"]["init_args"]["config"] |= {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
    recipe["model"]["init_args"]["config"] |= {"num_attention_heads": 2}
    changes = {
        "benchmark": {"class_path": "NaturalInstructions", "init_args": {"folder": str(kinds), "splits": "splits"}},
        "tokenizer": str(toybench / "tokenizer"),
        "cache": str(store_of(toybench)),
        "rows": {"length": 256, "per_step": 4},
        "instances": {"validation": 60, "test": 24, "held_out_share": None},
        "evaluation": {"mismatches": 2},
    }
    recipe["data"]["init_args"] = with_changes(recipe["data"]["init_args"], changes)
    path = tmp_path / "scorer.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_tiny_scorer_learns_to_rank_what_it_never_saw(kinds: Path, toybench: Path, tmp_path: Path) -> None:
    config = str(shrink(kinds, toybench, tmp_path))
    main(["fit", "--config", config])
    with open(tmp_path / "run/version_0/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    accuracy = [float(row["validation/ranking_accuracy"]) for row in rows if row["validation/ranking_accuracy"]]
    assert accuracy[-1] > 0.6  # chance is 1/3 and its standard deviation over 60 examples 0.06

    main(["validate", "--config", config, "--ckpt_path", str(tmp_path / "last.ckpt")])
    report = json.loads((tmp_path / "run/version_1/report/validation/report.json").read_text())
    answered = report["overall"][0]["estimates"]["exact_match"]
    assert answered["count"] == 60
    assert answered["mean"] == pytest.approx(accuracy[-1])  # an answer is the best-scored response

    main(["test", "--config", config, "--ckpt_path", str(tmp_path / "last.ckpt")])
    lines = (tmp_path / "run/version_2/predictions/test.jsonl").read_text().splitlines()
    assert len(lines) == 24
    assert {json.loads(line)["prediction"] for line in lines} <= {"animal", "color", "food"}


def test_the_recipe_trains_a_few_tasks_of_one_category(toybench: Path, tmp_path: Path) -> None:
    """From random weights a scorer of all tasks stays at chance: the recipe's are those of choosing an option."""
    settings = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]
    settings["benchmark"]["init_args"]["folder"] = str(toybench)
    benchmark = NaturalInstructions(**settings["benchmark"]["init_args"])
    names = {split: [name.partition("_toy_")[2] for name in benchmark.task_names(split)] for split in ("train", "test")}
    assert names["train"] == [f"choose_{kind}" for kind in ("animals", "colors", "names", "numbers")]
    assert names["test"] == [*names["train"], "choose_foods"]
    data = ScorerDataModule(benchmark, str(toybench / "tokenizer"), instances=Instances(test=5), cache=str(tmp_path))
    data.setup("test")
    examples = data.stage("test").examples
    levels = {example.task.partition("_toy_")[2]: str(example.level) for example in examples}
    assert levels == dict.fromkeys(names["train"], "fully_supervised") | {"choose_foods": "partially_supervised"}


def test_accumulated_batches_train_the_same_weights(kinds: Path, toybench: Path, tmp_path: Path) -> None:
    weights, losses = [], []
    for accumulation in (1, 2):
        folder = tmp_path / str(accumulation)
        folder.mkdir()
        config = shrink(kinds, toybench, folder, max_steps=4, accumulate_grad_batches=accumulation, precision="64-true")
        words = ["--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "1"]
        main(["fit", "--config", str(config), *words])
        state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        weights.append({name: weight for name, weight in state.items() if name.startswith("model.")})
        with open(folder / "run/version_0/metrics.csv") as file:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(file)])
    assert len(losses[0]) == 4
    assert all(math.isclose(one, two, rel_tol=1e-9) for one, two in zip(*losses, strict=True))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-8, rtol=0)
