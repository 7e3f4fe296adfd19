"""A run's record in its folder: `record.jsonl`, how much of it MLflow has, and its tags."""
