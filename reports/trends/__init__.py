"""Many runs: history with its changes, and fits over sizes.

It imports `verdicts` and the rooms below."""
