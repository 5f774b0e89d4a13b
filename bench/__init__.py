"""What is timed, and how: `python -m bench.<collective>`, one module a command."""

VERSION = "0.1.0"
