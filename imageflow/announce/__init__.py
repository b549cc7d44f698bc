"""Events out: from the outbox to everybody who wants to know, at least once and in order per build."""
