"""This host: child processes, files, locks, and removal of what builds leave behind."""
