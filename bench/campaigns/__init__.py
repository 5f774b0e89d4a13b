"""Campaigns: commands launched in turn and compared pair by pair. Only `bench.campaign` imports it,
and surveys for their launches.

`options` describes a campaign, `launches` keeps the manifest and makes a launch, `stages` all."""
