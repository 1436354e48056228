"""Where and how Rapport runs: on this machine (`deploy.local`) and on Kubernetes (`deploy/k8s`)."""
