"""Machines as servers in a cloud's Nova, and their layers as private images in its Glance."""
