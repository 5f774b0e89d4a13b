"""Static pages and the card. It imports `advice` and the rooms below."""
