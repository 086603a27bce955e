"""Regions explained: Python source, micro-ops and machine code side by side, with the unwind rows of each table."""
