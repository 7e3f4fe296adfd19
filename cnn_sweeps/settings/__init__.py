"""The composed configuration: its schema, its checks, and the command line."""
