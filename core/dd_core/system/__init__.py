"""The machine: devices, memory, processes, signals."""
