"""Tables and pictures of results; nothing here depends on the application whose results are shown."""
