"""A run's record in its own folder: `record.jsonl`, how far MLflow has it, and what its tags say."""
