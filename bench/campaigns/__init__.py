"""Campaigns: commands launched in turn and compared pair by pair. Only `bench.campaign` and
`bench.gate` import it, and surveys for their launches.

`campaign_options` describes a campaign, `open_campaign` keeps its folder and manifest, `launches`
makes a launch, `foreign_output` reads that of another harness, `revisions` has the code of a
variant; `processes` runs any command to its end, and `ending` is how those that launch end."""
