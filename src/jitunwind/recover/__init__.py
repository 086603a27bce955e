"""Machine code to unwind table, by control flow and forward data flow."""
