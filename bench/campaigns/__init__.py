"""Campaigns: commands launched in turn and compared pair by pair. Only `bench.campaign` imports it,
surveys for their launches, and `bench.tune_library`.

`options` describes a campaign, `launches` keeps the manifest and makes a launch, `stages` all.
`library_settings` lists the settings of MPI libraries, `library_costs` compares them."""
