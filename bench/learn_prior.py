"""Claim: the prior that comes with the package is what its public outcomes give, digit by digit.

Learns slopes inside a group from rows.csv in predictors/public, and writes prior.toml there.

    python bench/learn_prior.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rlready.predictors.public.facts import public_rows, public_sources
from rlready.predictors.public.learn import learn
from rlready.predictors.public.prior import to_toml

TABLE = Path(__file__).parents[1] / "predictors" / "public" / "prior.toml"


def main() -> int:
    """Write the table, or with --check compare it; 1 if it differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    arguments = parser.parse_args()
    text = to_toml(learn(public_rows(), public_sources()))
    if not arguments.check:
        TABLE.write_text(text, encoding="utf-8")
    print(text)
    return int(TABLE.read_text(encoding="utf-8") != text)


if __name__ == "__main__":
    sys.exit(main())
