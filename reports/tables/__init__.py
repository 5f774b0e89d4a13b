"""One run as text and pictures. It imports `store` and `imports`."""
