"""What a replay memory is made of: its budget, its sets, and the soft labels or the labelled views of their images."""
