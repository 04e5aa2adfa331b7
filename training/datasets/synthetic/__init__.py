"""A synthetic world of insurance customers who click, call and buy: the demo's load, and a data set in the paper's layout.

Everything is invented. The world resembles aggregates of the paper's tables (`calibration`) and has planted tastes (`world`), so
scores on it show that a model finds what was planted, not that it would please customers. Its users do not react to
recommendations. Randomness is an argument everywhere: a numpy Generator; the same seed gives the same bytes.
"""

from typing import Final

NOTICE: Final = "synthetic data: invented users with planted tastes, who do not react to recommendations"
