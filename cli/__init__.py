"""The `rapport` command: Rapport's own client, built on nothing but the public REST interface."""
