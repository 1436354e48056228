"""Activities: tasks, notes, calls and meetings on any record, and the timeline of every record."""
