"""The steps that flows are made of; `execute` finds or creates, `revert` removes what is left."""
