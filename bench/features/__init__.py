"""Optional parts of a sweep, a file each. The commands of single collectives offer them.

To remove a feature, delete its file and its line here."""

from bench.features.arrival_skew import ArrivalSkew
from bench.features.cold import Cold
from bench.features.contenders import Contenders
from bench.harness.feature import Feature

FEATURES: tuple[type[Feature], ...] = (ArrivalSkew, Cold, Contenders)
