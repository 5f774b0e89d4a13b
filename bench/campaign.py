"""`python -m bench.campaign` launches two or more commands in turn and compares them pair by pair.

1. The pilot launches each variant, and the first twice more: it shows times and their spread.
2. Pairs of launches follow; one look at all of them decides."""

import sys
from collections.abc import Sequence

from bench.campaigns.launches import OpenCampaign, check_new, run_command
from bench.campaigns.options import CampaignOptions, parse
from bench.campaigns.stages import run_launches
from bench.harness.console import FINE, WRONG
from reports.__main__ import main as reports
from reports.store.program import BENCH
from reports.verdicts.sides import COMPARABLE, read_sides


def run_campaign(options: CampaignOptions) -> int:
    """Makes the launches, prints the comparison, and returns the exit status. Raises one of
    FAILURES."""
    check_new(options.folder)
    campaign = OpenCampaign(options)
    run_launches(campaign, [*COMPARABLE])  # the user chose: the table lists every difference
    allowed = [word for key in COMPARABLE for word in ("--allow", key)]
    compare_status = reports(["compare", str(options.folder), *allowed])
    print(f"campaign: {options.folder} ({len(campaign.manifest.launches)} launches)")
    if compare_status or any(side.wrong_cases for side in read_sides([str(options.folder)])):
        return WRONG
    return FINE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.campaign` and returns the exit status."""
    return run_command(
        f"{BENCH}campaign",
        lambda: run_campaign(parse(argv)),
        "the campaign cannot be written",
        "interrupted; finished launches are kept",
    )


if __name__ == "__main__":
    sys.exit(main())
