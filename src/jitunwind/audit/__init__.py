"""Tables of JIT code against what happens there: stepped, emulated, or as the recovered states say it would."""
