"""An invented company's year, loaded through the API like any client would: the same one on every machine."""
