"""imageflow's state in SQL: SQL is the truth, the jobboard is a hint, the fence decides."""
