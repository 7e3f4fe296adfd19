"""What this application adds to a sweep: its run in MLflow, the test of the best trials, the champion, retraining."""
