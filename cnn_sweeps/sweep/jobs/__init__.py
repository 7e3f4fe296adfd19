"""Where jobs run: in this process, in workers, on a cluster."""
