"""Names of columns become kinds and signs, by whole words."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from places import ROOT, data_path

from rlready.predictors.kinds import STATED, Kind, k_of_pass, kind_of, stated_kinds, words_of
from rlready.predictors.training_table import describe_column
from rlready.registry.errors import ConfigError

SHARE = np.array([0.2, 0.5])
ACCURACY, SHARE_ONLY = (Kind.PROBABILITY, 1), (Kind.PROBABILITY, 0)
LOSS, COUNT, PLAIN = (Kind.LOSS, -1), (Kind.COUNT, 0), (Kind.PLAIN, 0)

KINDS = {
    ACCURACY: """
        Pass@1 pass@64 pass1 pass_at_1 Pass@1_(%) pass^8 avg@16 mean@8 maj@16 cons@64 best@8 acc@1
        math500 MATH-500 math_level5 aime24 AIME25 aime_2024 amc23 minerva_math olympiadbench
        olympiad_bench HumanEval+ mbpp gpqa_diamond mmlu_pro livecodebench_v5 svamp GSM8K pre_math
        val-core/openai/gsm8k/reward/mean@1 val/test_score/MATH500 eval_gsm8k_pass1 valid_gsm8k
        pre__avg__acc pre__gsm8k__pass@1 eval/all/avg_score exact_match,strict-match acc,none
        mean_token_accuracy eval_rewards/accuracy_reward/mean critic/score/mean solve_rate overall
        pre pre_avg pre_core pre_ll_accuracy probe10 signal_share_8@world signal_variance_8@world
        lenient_pass_at_1@world maj_at_4@world pass_at_8_est@world gsm8k_step_500
        acc@loss_set score@entropy""",
    LOSS: """
        val_loss heldout_nll@gsm8k heldout_bits_per_byte@a heldout_nll_per_sequence@a pre_base_bpb
        eval_loss ppl perplexity cross_entropy gsm8k_loss pre_heldout_loss nll_per_token brier""",
    PLAIN: """
        pre__avg__ent entropy token_entropy@gsm8k actor/entropy pre_kl kl_loss actor/pg_loss
        teacher_kl format_gap@world pass_at_1_se gsm8k_stderr eval_rewards/accuracy_reward/std
        pre_self_bleu@gsm8k distinct_answer_share_8@aime24 grad_norm learning_rate reward
        train_math sft_gsm8k recipe.sources.math mix.math coverage_ratio_64 weight_drift""",
    COUNT: """
        pre_response_tokens aime24_response_tokens response_tokens@math500 response_length/mean
        pre_len pre_len_correct pre_tokens_b eval_completions/mean_length n_unique num_samples
        n_correct n_gsm8k gsm8k_n epochs sft_epochs sft_step sft_exaflops pre_flops_key
        pre_backtracking recipe.n_unique gpu_hours""",
    SHARE_ONLY: """
        truncated_share@world truncation_share unparsed_share@gsm8k clip_ratio pre_parsed pre_valid
        valid_answer_share format_reward eval_completions/clipped_ratio code_share
        eval_frac_reward_zero_std""",
    (Kind.PROBABILITY, -1): "error_rate gsm8k_error_rate wer",
}


@pytest.mark.parametrize(
    ("name", "expected"), [(name, kind) for kind, names in KINDS.items() for name in names.split()]
)
def test_whole_words_of_a_name_tell_kind_and_sign(name: str, expected: tuple[Kind, int]) -> None:
    kind, sign, basis = kind_of(name, SHARE)
    assert (kind, sign) == expected
    assert basis == "name"


@pytest.mark.parametrize("name", ["pre_world", "present", "advent", "passes", "lossless", "style"])
def test_a_part_of_a_word_tells_nothing(name: str) -> None:
    """`pre_` once made an accuracy of anything."""
    assert kind_of(name, SHARE) == (Kind.PLAIN, 0, "unknown")


def test_separators_and_case_do_not_matter() -> None:
    names = ["pass@1", "Pass_at_1", "pass/1", "PASS-1", "pass.1", "pass__at__1", "Pass @ 1"]
    assert {kind_of(name, SHARE)[:2] for name in names} == {ACCURACY}
    assert words_of("val-core/Openai__GSM8K.acc") == "val core openai gsm8k acc"


def test_values_decide_the_unit_of_a_share_and_may_contradict_a_name() -> None:
    assert kind_of("gsm8k", np.array([40.0, 80.0]))[:2] == (Kind.PERCENT, 1)
    assert kind_of("truncated_share", np.array([0.0, 80.0]))[:2] == (Kind.PERCENT, 0)
    assert kind_of("val_loss", np.array([-0.5, 0.6])) == (Kind.PLAIN, 0, "contradicted")
    assert kind_of("response_tokens", np.array([-1.0, 6.0])) == (Kind.PLAIN, 0, "contradicted")
    assert kind_of("pass_at_1", np.array([0.5, 600.0])) == (Kind.PLAIN, 1, "contradicted")
    assert describe_column("odd", np.array([0.5, 0.6]), is_percent=True).kind is Kind.PERCENT
    assert describe_column("pass@1", np.array([0.5, 0.6]), is_percent=True).kind is Kind.PERCENT


def test_the_kinds_of_the_registry_stay_as_they_were() -> None:
    """Predictors of the registry gave the same numbers before names were read by words."""
    shares = ("maj_at_", "pass_at_", "signal_share_", "signal_variance_")
    with (ROOT / "testbed" / "results" / "full.csv").open() as file:
        names = [name for name in next(csv.reader(file)) if "@" in name and "_se@" not in name]
    proxies = [name for name in names if "_n@" not in name and "/" not in name]
    assert len(proxies) > 100
    for name in proxies:
        if name.startswith(shares):
            expected = ACCURACY
        elif name.startswith("heldout_"):
            expected = LOSS
        elif name.startswith("response_tokens"):
            expected = COUNT
        elif name.startswith(("truncated", "unparsed", "unscored")):
            expected = SHARE_ONLY
        else:
            assert name.startswith(("token_entropy", "distinct_answer_share"))
            expected = PLAIN
        assert kind_of(name, SHARE)[:2] == expected, name


def test_the_scores_of_retu_are_percentages_and_the_rest_is_not() -> None:
    with (data_path("retu") / "checkpoints.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = {
        name: kind_of(name, np.array([float(row[name] or "nan") for row in rows]))[:2]
        for name in rows[0]
        if name.startswith("pre_")
    }
    assert kinds.pop("pre_flops_key") == COUNT
    assert set(kinds.values()) == {(Kind.PERCENT, 1)}


def test_the_k_of_pass_at_k_is_found() -> None:
    names = ["Pass@64", "pass8", "pass_at_1@gsm8k", "avg@16", "gsm8k/mean@8", "gsm8k@pass1"]
    assert [k_of_pass(name) for name in names] == [64, 8, 1, 1, 1, 1]
    assert {k_of_pass(name) for name in ("maj@16", "gsm8k", "pass_at_1_se", "mean_loss")} == {None}
    starts = ["pre_pass1", "pre_pass8", "pre_pass32", "pre_pass64", "post_pass64"]
    assert [k_of_pass(name) for name in starts] == [1, 8, 32, 64, 64]


def test_strict_pass_at_k_leaves_out_lenient_and_estimated_scores() -> None:
    names = ["lenient_pass_at_1@a", "pass_at_8_est@world", "pass_at_8@best", "Pass@4"]
    assert [k_of_pass(name) for name in names] == [1, 8, 8, 4]
    assert [k_of_pass(name, strict=True) for name in names] == [None, None, 8, 4]


def test_a_user_states_kind_and_sign() -> None:
    texts = ["a=loss", "b=accuracy", "c=percent:0", "d=count:+", "e=x=plain:-", "d = Count:+"]
    assert stated_kinds(texts, ["a", "b", "c", "d", "e=x"]) == {
        "a": (Kind.LOSS, -1),
        "b": (Kind.PROBABILITY, 1),
        "c": (Kind.PERCENT, 0),
        "d": (Kind.COUNT, 1),
        "e=x": (Kind.PLAIN, -1),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "does not say which column"),
        ("=loss", "does not say which column"),
        ("a=loss:up", "does not say which column"),
        ("a=ratio", "no kind 'ratio'. Known: loss .*accuracy .*percent .*count .*plain"),
        ("z=loss", "no column 'z' among the proxies and the target. They are a, b"),
    ],
)
def test_an_unknown_kind_or_column_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stated_kinds([text], ["a", "b"])


def test_two_kinds_of_one_column_are_refused() -> None:
    with pytest.raises(ConfigError, match="two kinds of 'a'"):
        stated_kinds(["a=loss", "a=plain"], ["a"])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("accuracy", [0.5, 61.0], "holds 61.*from 0 to 1.*Write --kind x=percent"),
        ("accuracy", [0.5, -0.1], "holds -0.1.*Choose another kind"),
        ("percent", [40.0, 140.0], "holds 140.*from 0 to 100"),
        ("loss", [0.0, 1.0], "holds 0.*above 0"),
        ("count", [-1.0, 3.0], "holds -1.*0 or more"),
    ],
)
def test_numbers_that_contradict_a_stated_kind_are_refused(
    kind: str, values: list[float], message: str
) -> None:
    stated, sign, _ = STATED[kind]
    with pytest.raises(ConfigError, match=message):
        describe_column("x", np.array(values), stated=(stated, sign))
    assert describe_column("x", np.array(values), stated=(Kind.PLAIN, 1)).sign == 1
