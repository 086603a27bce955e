"""The agent, a shared object that publishes for the process it is in, and the Python that drives it."""
