"""Matching training trajectories: `mtt`, `ftd`, `datm`, `m-datm`, `tesla`."""
