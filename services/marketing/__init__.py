"""Marketing: what brings people in, and where they are lost on the way to becoming customers."""
