"""Tables and pictures of results. Knows nothing of the applications whose results they are."""
