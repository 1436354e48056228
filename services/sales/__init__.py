"""Sales: leads, the pipelines deals go through, and what is sold."""
