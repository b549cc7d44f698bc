"""Glance as a store: a set of images for each version."""
