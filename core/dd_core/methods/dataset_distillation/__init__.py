"""`dataset-distillation`: learned images and learning rates."""
