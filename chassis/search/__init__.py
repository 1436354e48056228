"""Text search: the words records are found by, kept with every write, and the records that a text finds."""
