"""Rapport on Kubernetes: a kustomize base with overlays, and the check that they keep their promises."""
