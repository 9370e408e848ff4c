"""`optimized`: the best of many random draws of real images."""
