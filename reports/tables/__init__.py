"""One run as text and pictures: rows, sentences, formats, plots.

It imports `store` and `imports`."""
