"""Images by what should be in them: what may be asked for, what it stands for, and who asked."""
