"""One run as text and pictures. It imports `references` and the rooms below."""
