"""Settings of SFT beside the mixture: loss weights, lengths, responses a problem, interpolation."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from places import ROOT

from rlready.predictors.search.space_file import read_space
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.loss_weights import WEIGHTINGS, _importance, _pear, token_weights
from rlready.testbed.training.sft import Length, SftRecipe, examples_of, sft
from rlready.testbed.training.tokenizer import encode_pairs
from rlready.testbed.world.measure import load
from rlready.workflow.cli.main import main
from rlready.workflow.evaluate.config import load_recipe

torch: Any = pytest.importorskip("torch")

SMALL = SftRecipe(budget=128, n_unique=64, mix="headroom", learning_rate=2e-3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "sft"
    return sft(shipped_base(), SMALL, folder).folder


def weights_of(folder: Path) -> Any:
    return torch.cat([p.detach().ravel() for p in load(folder)[0].parameters()])


def test_pear_of_one_response_by_hand() -> None:
    losses = torch.tensor([0.05, 2.0, 0.01])
    n_each = torch.tensor([3])
    steps = [-0.05, -0.08, -0.01]
    discount = math.log(0.999)
    token = [steps[1] + steps[2] + 2 * discount, steps[2] + discount, 0.0]
    assert _pear(losses, n_each, "token").log().tolist() == pytest.approx(token, abs=1e-6)
    sequence = [sum(steps)] * 3
    assert _pear(losses, n_each, "sequence").log().tolist() == pytest.approx(sequence, abs=1e-6)
    assert _pear(losses, n_each, "block").log().tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_blocks_are_of_eight_tokens() -> None:
    losses = torch.full((10,), 0.04)
    logs = _pear(losses, torch.tensor([10]), "block").log()
    behind_first = 2 * (-0.04 + math.log(0.999))
    assert logs.tolist() == pytest.approx([behind_first] * 8 + [0.0] * 2, abs=1e-6)


def test_importance_weights_compare_with_the_base_and_are_bounded() -> None:
    losses, n_each = torch.tensor([0.5, 1.5, 0.0]), torch.tensor([2, 1])
    weights = _importance(losses, torch.tensor([1.0, 9.0]), n_each)
    assert weights.tolist() == pytest.approx([1.0, 1.0, 16.0])


@pytest.mark.parametrize("weighting", [w for w in WEIGHTINGS if w != "none"])
def test_weights_have_mean_one_and_change_what_is_learned(
    weighting: str, plain: Path, tmp_path: Path
) -> None:
    model, tokenizer = load(shipped_base())
    examples = encode_pairs(tokenizer, examples_of(SMALL))
    weigh = token_weights(weighting, model, examples)
    assert weigh is not None
    n = int(examples.is_response[:7].sum())
    losses = torch.rand(n, generator=torch.Generator().manual_seed(0))
    weights = weigh(losses, torch.arange(7))
    assert weights.shape == (n,)
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-5)
    recipe = dataclasses.replace(SMALL, loss_weighting=weighting)
    made = sft(shipped_base(), recipe, tmp_path / "sft")
    assert all(map(math.isfinite, made.losses))
    assert not torch.equal(weights_of(made.folder), weights_of(plain))


def test_interpolation_takes_the_mean_of_the_weights(plain: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, base_share=0.25)
    mixed = sft(shipped_base(), recipe, tmp_path / "sft").folder
    expected = 0.75 * weights_of(plain) + 0.25 * weights_of(shipped_base())
    assert torch.allclose(weights_of(mixed), expected, atol=1e-6)


def test_short_and_long_take_other_problems_of_the_same_skills() -> None:
    few = SftRecipe(n_unique=120, mix="headroom")
    lengths = {
        length: sum(len(response) for _, response in examples_of(recipe)) / 120
        for length in ("short", "mixed", "long")
        for recipe in [dataclasses.replace(few, length=length)]
    }
    assert lengths["short"] < lengths["mixed"] < lengths["long"]
    kinds = [
        sorted(question.split(":")[0] for question, _ in examples_of(recipe))
        for recipe in (few, dataclasses.replace(few, length="short"))
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("n", [64, 65, 1500])
def test_short_and_long_have_as_many_examples_in_the_same_shares(n: int) -> None:
    """A skill with an odd number of draws lost its last problem: 62 of 64 examples were left."""
    mix = {"chain_easy": 0.111, "add3": 0.2, "sub2": 0.689}
    recipe = SftRecipe(n_unique=n, mix=mix)
    kinds = []
    for length in ("mixed", "short", "long"):
        changed = dataclasses.replace(recipe, length=length)  # type: ignore[arg-type]
        questions = {question for question, _ in examples_of(changed)}
        assert len(questions) == len(examples_of(changed)) == n
        kinds.append(Counter(question.split(":")[0] for question in questions))
    assert kinds[0] == kinds[1] == kinds[2]


@pytest.mark.parametrize(("n", "is_right"), [(2, True), (2.0, True), (2.5, False)])
def test_responses_of_a_record_are_a_whole_number(n: float, is_right: bool) -> None:
    """A range without `int = true` gives 2.0, which ended in a TypeError after the start."""
    record = Recipe(sources={"add3": 1.0}, n_unique=8, extra={"n_responses": n})
    if is_right:
        assert len({question for question, _ in examples_of(SftRecipe.from_record(record))}) == 4
    else:
        with pytest.raises(ConfigError, match=r"n_responses is 2\.5.*int = true"):
            SftRecipe.from_record(record)


def test_several_responses_of_each_problem() -> None:
    recipe = SftRecipe(n_unique=100, n_responses=4, style="shuffled", mix="headroom")
    pairs = examples_of(recipe)
    assert len(pairs) == 100
    assert len({question for question, _ in pairs}) == 25
    assert len(set(pairs)) > 25


def test_knobs_are_part_of_id_and_record_and_the_default_changes_neither() -> None:
    plain = SftRecipe()
    assert plain.id == "b6400-u6400-canonical-n0-mixed-r0.001-s0"
    assert "base_share" not in plain.key
    knobs = SftRecipe(loss_weighting="iw", length="short", n_responses=2, base_share=0.5)
    assert knobs.id.endswith("-s0-loss_weighting-iw-length-short-n_responses-2-base_share-0.5")
    assert SftRecipe.from_record(knobs.record("base")) == knobs
    assert SftRecipe.from_record(plain.record("base")) == plain


@pytest.mark.parametrize(
    "wrong",
    [{"loss_weighting": "sum"}, {"length": "huge"}, {"n_responses": 0}, {"base_share": 1.5}],
)
def test_wrong_knobs_are_refused_with_the_known_ones(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Known weightings: none, pear_sequence"):
        SftRecipe(**wrong)


def test_the_space_of_the_page_can_be_asked_and_each_of_its_values_trained(tmp_path: Path) -> None:
    """The page shows every knob as an axis; a value that the testbed refuses would be a lie."""
    page = (ROOT / "docs" / "testbed.md").read_text(encoding="utf-8")
    (text,) = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    path = tmp_path / "knobs.toml"
    path.write_text(text, encoding="utf-8")
    flags = [
        "--space",
        str(path),
        "--storage",
        f"sqlite:///{tmp_path}/s.db",
        "--out",
        str(tmp_path),
    ]
    asked = CliRunner().invoke(main, ["search", "ask", "--cold", "--trials", "3", *flags])
    assert asked.exit_code == 0, asked.output
    recipes = [load_recipe(found) for found in sorted(tmp_path.glob("knobs/*/recipe.toml"))]
    assert len(recipes) == 3
    axes = {axis.name: axis for axis in read_space(path).axes}
    assert set(axes["loss_weighting"].choices) == set(WEIGHTINGS)
    assert set(axes["length"].choices) == set(get_args(Length))
    for name, axis in axes.items():
        values = axis.choices or (axis.from_unit(0.0), axis.from_unit(1.0))
        for value in values:
            record = (
                dataclasses.replace(recipes[0], extra={**recipes[0].extra, name: value})
                if name in recipes[0].extra
                else dataclasses.replace(recipes[0], **{name: value})
            )
            epochs = 9000 / (record.n_unique or 1)
            recipe = SftRecipe.from_record(dataclasses.replace(record, epochs=epochs))
            assert getattr(recipe, name) == value
            assert len(examples_of(recipe)) == recipe.n_unique
