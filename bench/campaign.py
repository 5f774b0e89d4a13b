"""`python -m bench.campaign` launches two or more commands in turn and compares them pair by pair.

1. The pilot launches each variant, and the first twice more: it shows times and their spread.
2. Pairs of launches follow; one look at all of them decides."""

import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from bench.campaigns.launches import OpenCampaign, check_out, run_command
from bench.campaigns.options import CampaignOptions, Stop, parse
from bench.campaigns.stages import announce, run_pairs, run_pilot
from bench.harness.console import CANNOT, FINE, USAGE, WRONG
from kernels.devices.owners import private_folder
from reports.__main__ import main as reports
from reports.store.manifest import CampaignEnd
from reports.store.program import BENCH
from reports.verdicts.judge import Incomparable
from reports.verdicts.sides import COMPARABLE, read_sides


def run_campaign(options: CampaignOptions) -> int:
    """Makes the launches, prints the comparison, and returns the exit status."""
    campaign = OpenCampaign(options)
    run_launches(campaign, [*COMPARABLE])  # the user chose: the table lists every difference
    allowed = [word for key in COMPARABLE for word in ("--allow", key)]
    compare_status = reports(["compare", str(options.folder), *allowed])
    print(f"campaign: {options.folder} ({len(campaign.manifest.launches)} launches)")
    if compare_status or any(side.wrong_cases for side in read_sides([str(options.folder)])):
        return WRONG
    return FINE


def run_launches(campaign: OpenCampaign, allowed: Sequence[str]) -> None:
    """Makes all launches. Of a campaign that is refused before they are compared nothing stays. The
    files of revisions are there while they run: where nobody else can write, who could run code as
    this user in the campaign's folder. Raises Incomparable after the pilot for a difference that is
    not `allowed`."""
    variants = campaign.options.variants.values()
    private = private_folder() if any(map(campaign.revision_folder, variants)) else None
    try:
        with TemporaryDirectory(
            "-revisions", dir=private, ignore_cleanup_errors=True
        ) as campaign.revisions:
            for variant in variants:
                if folder := campaign.revision_folder(variant):
                    check_out(variant, folder)
            run_pilot(campaign)
            announce(campaign, allowed)
            run_pairs(campaign)
            campaign.record(CampaignEnd(status="complete"))
    except Incomparable:
        campaign.discard()
        raise
    except Stop as stop:
        is_early = not stop.is_of_variant or not campaign.finished("pilot")
        if stop.exit_status in (USAGE, CANNOT) and is_early:
            campaign.discard()
        raise


def main(argv: Sequence[str] | None = None, name: str = f"{BENCH}campaign") -> int:
    """Runs `python -m bench.campaign` and returns the exit status. `name` is the command that the
    user typed."""
    return run_command(
        name,
        lambda: run_campaign(parse(argv, name)),
        "the campaign cannot be written",
        "interrupted; finished launches are kept",
    )


if __name__ == "__main__":
    sys.exit(main())
