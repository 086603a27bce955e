"""Publishing from within a process of CPython: what its JIT makes is followed, described and handed to the agent."""
