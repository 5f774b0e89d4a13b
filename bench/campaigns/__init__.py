"""Campaigns: commands launched in turn and compared pair by pair. Only `bench.campaign` and
`bench.gate` import it, and surveys for their launches.

`options` describes a campaign, `launches` keeps the manifest and makes a launch."""
