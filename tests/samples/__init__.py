"""What comes in and goes out, in samples: webhooks, announcements, documents with one thing wrong."""
