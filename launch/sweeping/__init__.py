"""A sweep: which trials, how far they are, and what parts of one split score together."""
