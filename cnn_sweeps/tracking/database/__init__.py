"""Where MLflow keeps its runs: found, checked and mended before MLflow is imported."""
