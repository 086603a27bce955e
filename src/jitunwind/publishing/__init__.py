"""Publishing JIT code from inside the process, to debuggers and unwinders."""
