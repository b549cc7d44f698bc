"""The command line: what a person or a script says to the service, and how the answer looks."""
