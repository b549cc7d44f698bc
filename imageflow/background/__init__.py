"""What every background thread needs: a flag to wait for, backoff, rate-limited warnings, polling rounds."""
