"""What `bench.link` measures: a class for each measurement, with its key, who takes part, at which
sizes, and what is timed. Only `bench.link` imports it.

`transfers` moves buffers within a host, `parts` are those of a wire, `submissions` launch nothing,
`messages` are the library's, between hosts; `measurement` is what they share."""
