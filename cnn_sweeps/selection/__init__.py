"""What this application adds to a sweep: its record, the test of the best trials, the champion, retraining."""
