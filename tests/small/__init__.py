"""A small flow with real children, and workers to run it in: what the engine's own tests stand on."""
