"""`dm`: distribution matching."""
