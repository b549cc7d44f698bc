"""imageflow builds machine images from pinned inputs, once, on an event, resumable at any point."""
