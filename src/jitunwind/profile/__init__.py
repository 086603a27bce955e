"""Where a process spends its time: samples of its stacks, and one writer for each form that they are written in."""
