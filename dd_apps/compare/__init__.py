"""The task `compare`: distillation methods beside real images at equal bytes, over sizes, networks and seeds."""
