"""x86_64: System V psABI."""
