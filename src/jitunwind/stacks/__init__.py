"""Stacks of processes and cores without a debugger: stop, copy, let go; walk; name."""
