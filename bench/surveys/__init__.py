"""Surveys: one launch after another, into a folder to send. Only `bench.survey` imports it.

`steps` plans the launches and makes one, `page` writes the page and the archive."""
