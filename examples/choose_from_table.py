"""Fit, rank and plan with a table of one's own: which checkpoints of a new SFT set get RL?

The table holds 17 checkpoints of Qwen2.5-7B from three SFT sets and the base model, with their
scores after RL (RETU, arXiv 2512.11470). We hide the outcomes of one SFT set, choose two of its
checkpoints for RL as if nobody had trained them, and then look. The set was fixed beforehand: the
last one in the file.

    python examples/choose_from_table.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rlready.predictors import CalibratedPredictor, Candidates, plan, rank, training_table

TABLE = Path(__file__).parents[1] / "tests" / "data" / "retu" / "checkpoints.csv"
TARGET = "post_overall_smooth5_peak"  # the score after RL, in percent
N_RUNS = 2


def main() -> None:
    """Print the ranking, the plan and what the hidden outcomes say about them."""
    frame = pd.read_csv(TABLE)
    frame["name"] = frame["sft_data"] + "/" + frame["sft_step"].astype(str)
    outcomes = frame.set_index("name")[TARGET]
    new_set = frame["sft_data"].iloc[-1]
    is_new = frame["sft_data"] == new_set
    table = training_table(
        frame.assign(**{TARGET: frame[TARGET].mask(is_new)}),
        target=TARGET,
        features=["val_loss", "pre_overall"],
        groups=["sft_data"],
        names="name",
    )
    predictor = CalibratedPredictor().fit(table)
    print(f"{len(table.with_outcome())} outcomes are known, {is_new.sum()} of {new_set} are hidden")
    print(predictor.signal_.in_words())

    candidates = table.rows(is_new.to_numpy())
    assessed = predictor.assess(candidates)
    predictive = predictor.predictive(candidates, noise=False)
    ranking = rank(
        Candidates(
            ids=candidates.ids,
            predictive=predictive,
            low=assessed["low"].to_numpy(),
            high=assessed["high"].to_numpy(),
            interval="90%",
            domain=assessed["domain"].tolist(),
            target=TARGET,
        ),
        signal_p=predictor.signal_.p,
        top_n=N_RUNS,
    )
    print(f"\n{'rank':6} {'checkpoint':18} {'predicted':>9}  {'90 % interval':15} after RL")
    for row in ranking.rows:
        interval, place = f"{row.low:.1f} to {row.high:.1f}", row.rank or "none"
        true = outcomes[row.id]
        print(f"{place:6} {row.id:18} {row.predicted:9.2f}  {interval:15} {true:.2f}")
    if not ranking.is_claimed:
        print(f"No order is claimed: {ranking.rows[0].reasons[0]}")

    score = frame.loc[is_new, "pre_overall"].to_numpy()
    chosen = plan(
        predictive, candidates.ids, N_RUNS, rl_noise=predictor.run_noise, scores={"pass@1": score}
    )
    by_score = candidates.X["pre_overall"].nlargest(N_RUNS).index
    best = outcomes[candidates.ids].max()
    print()
    for label, ids in (("The plan", chosen.chosen), ("pass@1", by_score)):
        lost = best - outcomes[list(ids)].max()
        print(f"{label} would train {' and '.join(ids)}: {lost:.2f} points below the best")


if __name__ == "__main__":
    main()
