"""What is known of CPython: where its executors are, what they are called, which line they run."""
