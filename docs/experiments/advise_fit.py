"""`PYTHONPATH=. python docs/experiments/advise_fit.py` writes reports/advice/likely.toml from the
published rows of the owners whose figures may set constants."""

import msgspec
from advise_estimate import narrowest, shares_of_most, text_of
from advise_rows import fitting_examples
from advise_ways import ways

from reports.advice.likely import FILE


def text() -> str:
    """The contents of the file."""
    examples, by_way = fitting_examples(), ways()
    fitted = narrowest(examples, by_way)
    of_most = shares_of_most(examples, by_way)
    return text_of(msgspec.structs.replace(fitted, of_most=of_most))


if __name__ == "__main__":
    FILE.write_text(text())
