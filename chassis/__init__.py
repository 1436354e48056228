"""The shared ground of every Rapport process. It knows calls, records and events, and no business noun."""
