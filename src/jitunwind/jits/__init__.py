"""The JITs that jitunwind knows: where their code lies, how it is entered, what it is called."""
