"""What must be reached at least and what is aimed at, by rig and case: `perf/goals.json`, which weft-report has too."""

import json
from pathlib import Path

GOALS = json.loads((Path(__file__).parents[2] / "perf/goals.json").read_text())


def goal(rig, case):
    """Both bounds of a case; None where there is none."""
    found = GOALS[rig].get(case, {})
    return found.get("at_least"), found.get("aim")
