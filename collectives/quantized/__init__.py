"""All-reduces over a quantised wire: lossy, and measured only by name.

Only the registry (`collectives.algorithm`) imports it; without this folder and its line there, all
else works.
"""

from collectives.quantized.two_shot import ALGORITHMS

__all__ = ["ALGORITHMS"]
