"""The records of runs in their folders, and MLflow, to which they are brought."""
