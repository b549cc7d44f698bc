"""A small flow with real children, and workers that run it: the base of the engine's own tests."""
