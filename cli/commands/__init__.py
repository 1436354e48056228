"""The commands: what each takes, and what its help says."""
