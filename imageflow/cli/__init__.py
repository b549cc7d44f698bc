"""The command line: what users and scripts ask of the service, and how answers are displayed."""
