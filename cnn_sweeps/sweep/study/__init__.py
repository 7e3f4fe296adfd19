"""The study of a sweep: its storage, its trials, and the controllers that share it."""
