"""Campaigns: commands launched in turn and compared pair by pair. Only `bench.campaign` imports it.

`options` reads the command line, `variants` describes commands and revisions, `launches` keeps the
manifest and makes one launch through `processes`, `stages` makes all launches.
"""
