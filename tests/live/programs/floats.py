"""Floating point: arithmetic, comparisons, conversions and calls into libm."""

import math

from handshake import run_forever


def work() -> float:
    x, v, energy = 1.0, 0.0, 0.0
    for i in range(80):
        a = -x * 0.5
        v += a * 0.01
        x += v * 0.01
        energy += 0.5 * v * v + 0.25 * x * x
        if x > 0.5:
            energy -= math.sqrt(x)
        elif i == 77:
            energy = float(int(energy))
    return energy


run_forever(work)
