"""Measures imageflow's costs as ratios of two sides in one run on one machine: `python -m bench`."""
