"""Runs diskimage-builder for a build and processes the files it makes."""
