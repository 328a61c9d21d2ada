"""Claim: the prior that comes with the package is what its public outcomes give, digit by digit.

Learns slopes inside a group from rows.csv in predictors/public, and compares with prior.toml there.

    python bench/learn_prior.py [--write] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlready.predictors.public.facts import public_rows, public_sources
from rlready.predictors.public.learn import learn
from rlready.predictors.public.prior import to_toml

TABLE = Path(__file__).parents[1] / "predictors" / "public" / "prior.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace the table that is shipped")
    parser.add_argument("--quick", action="store_true", help="the same, it is quick")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    text = to_toml(learn(public_rows(), public_sources()))
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")
    if not arguments.json:
        print(text)
    same = TABLE.read_text(encoding="utf-8") == text
    print(json.dumps({"bench": "learn_prior", "same_as_shipped": same}))


if __name__ == "__main__":
    main()
