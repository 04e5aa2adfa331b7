"""Shows the differences of a failed case, whose folder is kept: `python -m tests.chaos.explain build/chaos/CASE`."""

import argparse
import json
import pickle
from pathlib import Path

from models.artifact import load_ranker
from stream.core.step import StepConfig
from tests.chaos.check import expected, found_in, judge, last, users_of
from tests.world import history_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--users", type=int, default=3, help="how many to show")
    given = parser.parse_args()
    observed = pickle.loads((given.folder / "observed.pickle").read_bytes())
    ranker, settings = load_ranker(str(given.folder / "model")), StepConfig(partitions=given.partitions)
    print(judge(observed, ranker, settings))
    wanted, found = expected(observed, ranker, settings), found_in(observed)
    wrong = [user for user in sorted(users_of(wanted)) if history_of(wanted, user) != history_of(found, user)]
    for user in wrong[: given.users]:
        print(f"\n{user}\n  must be {history_of(wanted, user)}\n  is      {history_of(found, user)}")
        print(f"  last list must be {json.dumps(last(wanted, user))}\n  is                {json.dumps(last(found, user))}")


if __name__ == "__main__":
    main()
