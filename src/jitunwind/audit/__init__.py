"""Recovered rows against other witnesses, with a verdict for each instruction."""
