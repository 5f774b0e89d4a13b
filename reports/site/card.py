"""`card`: one picture of a run to share, 1200 x 630 pixels: the answer, a plot, and the command.

The sentences also stand in the run's table. The card does not name the machine.
"""

import argparse
import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from reports.imports.imported import Imported, read_imported
from reports.site import words
from reports.store import exposed
from reports.store.case import find_states
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.writing import write_named
from reports.tables import exposed_table, imported_table, link, rows, sentences, steps
from reports.tables.figure import COLOURS, dress, figure, styles_of
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, number, size_text
from reports.tables.summary import token

NOTHING = "Nothing was measured."
OURS = "ours"
INCHES, DOTS_PER_INCH = (12, 6.3), 100

Plot = Callable[[Any], None]  # draws into matplotlib's axes
