"""From the call to the token: where the time of a step goes. It imports `advice` and below."""
