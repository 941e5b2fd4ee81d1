"""Jobs from input to run folder: configuration, progress, records."""
