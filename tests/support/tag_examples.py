"""Readiness tags that tests write."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from store_child import a_checkpoint

from rlready.registry.readiness_tag import Readiness, ReadinessTag

FAMILY = "Qwen2.5-0.5B-sft"
READY, NOT_READY, UNDECIDED = Readiness.READY, Readiness.NOT_READY, Readiness.UNDECIDED
NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)


def a_tag(number: int = 1, **changes: Any) -> ReadinessTag:
    given: dict[str, Any] = {
        "checkpoint_id": a_checkpoint(number).id,
        "readiness": READY,
        "predicted": 0.613,
        "low": 0.55,
        "high": 0.67,
        "level": 0.9,
        "regime": "known group: jackknife+",
        "domain": "in",
        "target": "value_at_budget/60steps@gsm8k",
        "predictor": "grpo-predictor",
        "predictor_version": "3",
        "rule_digest": "ab" * 16,
        "reasons": ("chance 0.81 to end within 0.02 of the best", "signal share 0.61"),
        "made_at": NOW,
    }
    return ReadinessTag(**{**given, **changes})
