"""Where unwind tables come from: recovered, published by the process, or of a file."""
