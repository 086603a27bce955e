"""How far the shares of a recording are to be trusted, in sentences: in come its counts, out comes what to say."""

import math
from collections.abc import Iterator

from jitunwind.profile.recording import Counts, Origin

_ENOUGH_OF_THE_RATE = 0.9
_FEW_LOST = 0.02
_NORMAL_95 = 1.96
"""Standard deviations to both sides of the mean that have 95 % of a normal distribution."""


def error(samples: int) -> float:
    """By how many points of 100 a share of one half is wrong at most, 19 times of 20. `samples`: 1 or more."""
    return 100 * _NORMAL_95 * 0.5 / math.sqrt(samples)


def doubts(origin: Origin, counts: Counts, samples: int) -> Iterator[str]:
    """A sentence for each thing that a reader of the shares should know; none, if all went well."""
    if counts.moments and counts.moments - counts.missed < _ENOUGH_OF_THE_RATE * counts.moments:
        reached = (counts.moments - counts.missed) / max(origin.seconds, 1e-9)
        yield (
            f"{reached:.0f} of {1 / origin.period:.0f} samples a second were taken, as the recorder was busy or had no "
            f"processor (-r {_rate_for(reached):.0f} asks for less); the shares hold, if that was alike in all parts "
            "of the program"
        )
    if 2 * counts.late > counts.moments - counts.missed > 0:
        yield (
            "most samples came late, as the recorder had no processor in time; the shares hold, if that was alike in "
            "all parts of the program"
        )
    if samples and counts.lost > _FEW_LOST * (samples + counts.lost):
        share = 100 * counts.lost / (samples + counts.lost)
        yield (
            f"{share:.0f} % of the samples were lost, as threads did not stop in time, or freed code before its name "
            "was read; if that is more often so in one function than in others, its share is too small"
        )


def _rate_for(reached: float) -> float:
    """A round rate below the one that was reached."""
    size = 10.0 ** math.floor(math.log10(max(reached, 1)))
    return max(reached // size * size, 1.0)
