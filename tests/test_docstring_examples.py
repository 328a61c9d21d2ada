"""The examples in the docstrings of public names run and give what they show."""

from __future__ import annotations

import dataclasses
import doctest
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from store_child import GSM8K, a_checkpoint, a_proxy, an_evaluation, an_outcome
from tag_examples import a_tag

from rlready import evaluators, predictors, registry, testbed
from rlready.evaluators import load_heldout, load_model, load_tokenizer, open_weights, pass_at_k
from rlready.evaluators.heldout.tokens import tokenize_set
from rlready.predictors.rl_curve import read_curves
from rlready.registry import Evaluation, FittedPredictor, MemoryStore, MlflowStore, put_predictor
from rlready.registry.digest import fingerprint
from rlready.testbed import shipped_base
from rlready.testbed.training.grpo import grpo
from rlready.testbed.training.model import untrained_checkpoint
from rlready.testbed.training.sft import sft

TARGET = "value_at_budget/60steps@gsm8k"
OF_WEIGHTS = ("Checkpoint", "load_model", "load_tokenizer", "open_weights", "token_losses")
OF_PREDICTORS = (
    *("FittedPredictor", "LoadedPredictor", "PredictorMeta", "get_predictor", "put_predictor"),
)
EVALUATORS = (
    *("ExampleLoss", "HeldoutExample", "HeldoutForm", "HeldoutSet", "heldout_proxies"),
    *("load_heldout", "load_model", "load_tokenizer", "open_weights", "token_losses"),
)
PREDICTORS = (
    *("CalibratedPredictor", "Candidates", "Curve", "CurvePoint", "Predictive", "StartRule"),
    *("Ranking", "TrainingTable", "ValidationReport", "make_model", "model_names", "plan"),
    *("check_start", "rank", "training_table", "validate"),
)
PUBLIC = [
    *((registry, name) for name in registry.__all__),
    *((testbed, name) for name in testbed.__all__),
    *((evaluators, name) for name in EVALUATORS),
    *((predictors, name) for name in PREDICTORS),
]


def a_filled_store(store: Any) -> Any:
    """A store with two checkpoints, the first of which has an outcome."""
    for number, name in ((1, "step-500"), (2, "step-1000")):
        shared = {"benchmark": "gsm8k", "protocol_digest": None}
        proxies = (
            a_proxy(name="pass_at_1", value=0.51, **shared),
            a_proxy(name="heldout_nll", value=0.72, **shared),
        )
        checkpoint = a_checkpoint(number, name=name)
        store.put_evaluation(Evaluation(checkpoint=checkpoint, proxies=proxies))
    store.put_outcome(an_outcome(1, value=0.61))
    return store


def of_predictors() -> dict[str, Any]:
    """Values that the examples of the predictors use."""
    ids, mean = ("step-500", "step-1000"), np.array([0.6, 0.4])
    predictive = predictors.Predictive(
        mean=mean,
        row_sd=np.full(2, 0.05),
        group_sd=np.zeros(2),
        groups=np.array(["a", "a"]),
    )
    candidates = predictors.Candidates(
        ids=ids,
        predictive=predictive,
        low=mean - 0.1,
        high=mean + 0.1,
        interval="90%",
        domain=("in", "in"),
    )
    score = np.linspace(0.2, 0.45, 6)
    frame = pd.DataFrame({"pass_at_1": score, "post_rl": score + 0.2})
    table = predictors.training_table(frame, target="post_rl", features=["pass_at_1"])
    return {
        **{key: getattr(predictors, key) for key in PREDICTORS},
        **{"predictive": predictive, "ids": ids, "candidates": candidates},
        **{"frame": frame, "table": table, "np": np, "pd": pd},
    }


def namespace(name: str, folder: Path, uri: str) -> dict[str, Any]:
    """Values that the example of a public name uses."""
    (folder / "empty").mkdir()
    (folder / "held.jsonl").write_text('{"prompt": "2 + 2 =", "response": "4"}\n')
    store: Any = MemoryStore()
    values = {
        "Path": Path,
        "torch": torch,
        "fingerprint": fingerprint,
        "pass_at_k": pass_at_k,
        "read_curves": read_curves,
        "grpo": grpo,
        "sft": sft,
        "sft_folder": shipped_base(),
        "checkpoint": a_checkpoint(3),
        "evaluation": an_evaluation(3),
        "proxy": a_proxy(),
        "benchmark": load_heldout(folder / "held.jsonl"),
        "heldout": load_heldout(folder / "held.jsonl"),
        "tag": a_tag(),
        "outcome": dataclasses.replace(an_outcome(1), value=0.7, seed=9),
    }
    if name in PREDICTORS:
        values |= of_predictors()
    if name in OF_WEIGHTS:
        path = untrained_checkpoint(folder / "runs" / "sft" / "checkpoint-500")
        path.rename(path.with_name("step-500")) if name == "Checkpoint" else None
    if name == "token_losses":
        weights = open_weights("runs/sft/checkpoint-500")
        values["model"] = load_model(weights.path, "cpu", torch.float32)
        tokenizer = load_tokenizer(weights.path)
        values["example"] = tokenize_set(values["heldout"], tokenizer, "{problem}").examples[0]
    elif name in ("load_model", "load_tokenizer"):
        values["weights"] = open_weights("runs/sft/checkpoint-500")
    elif name in OF_PREDICTORS:
        store = MlflowStore(uri)
        X = pd.DataFrame({"pass_at_1@gsm8k": [0.1, 0.2, 0.4, 0.5]})
        table = dataclasses.replace(
            registry.checkpoint_table(a_filled_store(MemoryStore()).checkpoints()), frame=X
        )
        values |= {"estimator": Ridge(), "X": X, "y": np.arange(4.0), "table": table}
        values |= {"digest": GSM8K, "target": TARGET}
        fitted = FittedPredictor(
            estimator=Ridge().fit(X, values["y"]),
            X=X,
            table=X,
            table_digest=GSM8K,
            target=TARGET,
            column_versions={"pass_at_1@gsm8k": "benchmark"},
        )
        values["fitted"] = fitted
        if name not in ("FittedPredictor", "put_predictor"):
            put_predictor(store, fitted)
    elif name == "MlflowStore":
        a_filled_store(MlflowStore(uri))
    values["store"] = store if name in OF_PREDICTORS else a_filled_store(store)
    return values


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_the_example_of_a_public_name_runs(
    package: Any, name: str, tmp_path: Path, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    thing = getattr(package, name)
    text = thing.__doc__ or ""
    assert "Example:" in text, f"{name} has no example"
    names = {key: getattr(registry, key) for key in registry.__all__}
    names |= {key: getattr(testbed, key) for key in testbed.__all__}
    names |= {key: getattr(evaluators, key) for key in EVALUATORS}
    names |= vars(import_module(thing.__module__)) | namespace(name, tmp_path, sqlite_uri)
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    report: list[str] = []
    doctest.DocTestRunner(optionflags=flags).run(example, out=report.append)
    assert not report, "".join(report)
