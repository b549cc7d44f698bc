"""What every driver of a kind promises: suites that the tests of each driver inherit."""
