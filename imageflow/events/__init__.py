"""Events in SQL, each once, and the conditions that recipes put on them."""
