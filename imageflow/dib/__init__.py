"""How diskimage-builder is run for a build, and what is made of what it leaves."""
