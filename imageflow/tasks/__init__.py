"""The steps that flows are made of; each finds or creates, and its revert removes what is left."""
