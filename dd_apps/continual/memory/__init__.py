"""What a replay memory is made of: its budget, the sets that it holds, and the soft labels of their images."""
