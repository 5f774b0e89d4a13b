"""Many runs: history with its changes, and fits over sizes. It imports the rooms before it."""
