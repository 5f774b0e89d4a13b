"""`python -m bench.campaign` launches two or more commands in turn and compares them pair by pair.

1. The pilot launches each variant, and the first twice more: do they run, how long does a launch
   take, how much do launches of one variant differ?
2. The first stage runs pairs of all sizes, with launches of the first variant as `control`.
3. Fresh pairs of the sizes that seem to differ decide.
"""

import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # quit silently during the imports

from bench.campaigns.launches import OpenCampaign, launch_budget_s, open_campaign
from bench.campaigns.options import CampaignOptions, parse
from bench.campaigns.processes import Stop, say
from bench.campaigns.stages import announce, run_pilot, run_stages
from bench.campaigns.variants import check_out, remove_worktree
from bench.harness.options import FINE, INTERRUPTED, USAGE, WRONG
from reports.__main__ import main as reports
from reports.__main__ import open_closed_streams
from reports.comparison import COMPARABLE
from reports.manifest import End
from reports.result import ResultError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_campaign(options: CampaignOptions) -> int:
    """Runs the rest of the campaign, prints the comparison, and returns the exit status."""
    launch_budget_s(options)
    campaign = open_campaign(options)
    folder = campaign.folder
    if campaign.manifest.end:
        say(f"{folder} holds this campaign, finished")
    else:
        if campaign.manifest.launches:
            say(f"continuing in {folder} after {len(campaign.finished())} launches")
        run_launches(campaign)
    allowed = [word for key in COMPARABLE for word in ("--allow", key)]
    compare_status = reports(["compare", str(folder), *allowed])
    print(f"campaign: {folder} ({len(campaign.manifest.launches)} launches)")
    is_wrong = any(launch.exit == WRONG for launch in campaign.finished())
    return WRONG if compare_status or is_wrong else FINE


def run_launches(campaign: OpenCampaign) -> None:
    """Makes the remaining launches; revisions are checked out while they run."""
    revisions = [variant for variant in campaign.options.variants if variant.commit]
    try:
        for variant in revisions:
            check_out(variant, campaign.worktree(variant))
        run_pilot(campaign)
        announce(campaign)
        run_stages(campaign)
        campaign.record(End(status="complete"))
    finally:
        for variant in revisions:
            remove_worktree(campaign.worktree(variant))


def interrupt(*_: Any) -> NoReturn:
    """Ends the campaign in order. Later signals are ignored: they would cut the ending short."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.campaign` and returns the exit status."""
    open_closed_streams()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        return run_campaign(parse(argv))
    except Stop as stop:
        status, sentence = stop.status, str(stop)
    except ResultError as error:
        status, sentence = USAGE, str(error)
    except OSError as error:
        subject = error.filename or "the campaign cannot be written"
        status, sentence = USAGE, f"{subject}: {error.strerror}"
    except KeyboardInterrupt:
        status = INTERRUPTED
        sentence = "interrupted; finished launches are kept, and the same command continues"
    say(f"bench.campaign: {sentence}")
    return status


if __name__ == "__main__":
    sys.exit(main())
