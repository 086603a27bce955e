"""sweep.c."""

from jitunwind.arch.x86_64 import effects

sweep = effects._sweep
