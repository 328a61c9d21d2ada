"""`--show-held-out`: which tokens are scored, before the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workplace import Workplace

from rlready.registry.errors import ConfigError
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.views.heldout import heldout_view
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.heldout_preview import ShownExample, shown_examples
from rlready.workflow.terminal import print_view


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random")


@pytest.fixture
def held(tmp_path: Path) -> Path:
    path = tmp_path / "held.jsonl"
    rows = [
        {"prompt": "1+2", "response": "3"},
        {"id": "b", "prompt": "2+2 ", "response": "4 = 4"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def config(folder: Path, *files: Path) -> EvaluateConfig:
    names = tuple(f"set{i}={file}" for i, file in enumerate(files))
    return EvaluateConfig(checkpoint=str(folder), held_out=names, suite=None, benchmarks=("x",))


def test_the_parts_are_the_whole_text_and_the_scored_one_is_the_response(
    folder: Path, held: Path
) -> None:
    shown = shown_examples(config(folder, held, held), 2)
    assert [(e.heldout_set, e.id) for e in shown] == [
        *(("set0", "line-1"), ("set0", "b")),
        *(("set1", "line-1"), ("set1", "b")),
    ]
    (before, is_scored), (response, is_response_scored) = shown[1].parts
    assert (is_scored, is_response_scored) == (False, True)
    assert before.endswith("2+2 \n")  # the testbed's chat template ends a question with a line
    assert response == "4 = 4<|im_end|>"
    assert shown[0].n_scored == 2  # the digit, and the token that ends the turn
    assert shown[0].to_dict()["parts"][0].keys() == {"text", "is_scored"}


def test_piped_output_has_marks_and_no_colours(
    folder: Path, held: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_view(heldout_view(shown_examples(config(folder, held), 1)))
    out = capsys.readouterr().out
    assert "set0, line-1: 2 of 6 tokens are scored, those between ⟦ and ⟧" in out
    assert "1+2\n⟦3<|im_end|>⟧" in out
    assert "\x1b" not in out


def test_long_parts_are_cut_in_the_middle_and_cut_bytes_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = (("a" * 3000, False), ("b", True))
    example = ShownExample(
        heldout_set="s", id="x", parts=parts, n_tokens=3001, n_scored=1, n_cut_bytes=42
    )
    print_view(heldout_view([example]))
    out = capsys.readouterr().out
    assert "1 of 3,001 tokens are scored, those between ⟦ and ⟧; 42 response bytes are not" in out
    assert "[... 1,800 characters ...]" in out.replace("\n", " ")


def test_numbers_below_1_and_no_held_out_set_are_refused(folder: Path, held: Path) -> None:
    with pytest.raises(ConfigError, match=r"--show-held-out 0\. Give 1 or more"):
        shown_examples(config(folder, held), 0)
    with pytest.raises(ConfigError, match="--show-held-out 2 without --held-out"):
        shown_examples(config(folder), 2)


def test_the_examples_come_before_the_results_or_into_the_json(
    tmp_path: Path, folder: Path, empty_database: Path
) -> None:
    place = Workplace(tmp_path / "place", folder, empty_database)
    done = place.run("--show-held-out", "1")
    assert done.returncode == 0, done.stderr
    assert 0 <= done.stdout.index("held, line-1:") < done.stdout.index("heldout_nll")
    report = place.report("--show-held-out", "2")
    assert [example["id"] for example in report["shown_held_out"]] == ["line-1", "line-2"]
    none = place.run("--show-held-out", "-1")
    assert none.returncode == 2
    assert "--show-held-out is -1" in none.stderr


def test_rows_of_weight_0_and_markers_are_named_on_the_command_line(
    tmp_path: Path, folder: Path, empty_database: Path
) -> None:
    place = Workplace(tmp_path / "place", folder, empty_database)
    rows = [{"q": {"text": "1+2 A: 3"}}, {"q": {"text": "1+3 A: 4"}, "weight": 0}]
    place.held_out.write_text("\n".join(map(json.dumps, rows)))
    refused = place.run()
    assert refused.returncode == 2
    assert "line 1 is not a held-out example: it has the fields q.text" in refused.stderr
    done = place.run("--response-marker", "A:", "--held-out-field", "text=q.text")
    assert done.returncode == 0, done.stderr
    assert "held: 1 row of weight 0 is left out" in done.stderr
