"""`python -m jitunwind`."""

from jitunwind.cli import main

main()
