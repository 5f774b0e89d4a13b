"""Records launches of an A/A campaign for the calibration.

python -m tests.reports.calibration.record_launches reports/calibration/recorded.npz CAMPAIGN/main
CAMPAIGN/control
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from reports.verdicts.sides import find_costs, key_of, side_of


def record(path, launches):
    """Save the log medians that comparisons use, (launches, cases, states); NaN if a launch has too
    few blocks."""
    n_states = len(find_costs(launches, ())) or 1
    keys = [key_of(case) for case in launches[0].result.run.cases if case.status == "ok"]
    costs_us = [
        [
            [launch.costs.get(key, {}).get(state, np.nan) for state in range(n_states)]
            for key in keys
        ]
        for launch in launches
    ]
    np.savez_compressed(path, log_medians=np.log(costs_us).astype(np.float32))


if __name__ == "__main__":
    all_launches = [launch for folder in sys.argv[2:] for launch in side_of(folder).launches]
    record(Path(sys.argv[1]), sorted(all_launches, key=lambda launch: launch.result.run.run_id))
