"""The study of a sweep: where it is, what it holds, who works at it."""
