"""Reads stored runs and shows them: tables, pictures, and the statistics beneath. Runs nothing."""

import sys

if sys.argv[0] == "-m":  # a command begins
    from wiretax.common.interpreter import require_packages

    require_packages()
