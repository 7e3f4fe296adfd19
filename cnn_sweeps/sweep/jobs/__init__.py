"""Executors, which run jobs: in this process, in workers, on a cluster."""
