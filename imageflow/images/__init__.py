"""Image versions and their publications."""
