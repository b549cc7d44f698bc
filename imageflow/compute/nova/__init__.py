"""Machines that are servers of a cloud's Nova, and their layers: private images in its Glance."""
