"""The figures of docs/claims.md by claim: computed by the advisor's formulas from the commands that
the page shows, or read from `reports/references` and the archived runs.

A function a1() returns its figures by name, as the sentences of data/claims.toml have them, and the
verdict where arithmetic decides it; None where it is a judgement."""

from collections.abc import Callable, Mapping

import claims_guide
import claims_rigs
import claims_two_cards
from claims_table import Claim, Found

OURS: Mapping[str, Callable[[Claim], Found]] = (
    claims_two_cards.OURS | claims_rigs.OURS | claims_guide.OURS
)
