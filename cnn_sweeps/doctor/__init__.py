"""The records of a sweep are compared and brought to agree."""
