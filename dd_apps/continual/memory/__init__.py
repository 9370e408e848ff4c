"""The parts of a replay memory: its budget, its sets, and the soft labels or the labelled views of their images."""
