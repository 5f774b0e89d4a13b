"""Campaigns: commands launched in turn and compared pair by pair. Only `bench.campaign` imports it.

`options` describes the campaign and its variants, `launches` keeps the manifest and makes one
launch, `stages` makes all launches.
"""
