"""Campaigns: commands launched in turn and compared pair by pair. Only `bench.campaign` imports it.

`options` describes a campaign, `launches` keeps the manifest and makes a launch, `stages` all."""
