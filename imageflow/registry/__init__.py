"""The recipes that events can build, from files and from git."""
