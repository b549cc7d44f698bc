"""The tests' own cloud: a real one-node OpenStack that they start and stop; see README.md."""
