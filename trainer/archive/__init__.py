"""Ask a whole archive: an index of clips, the search in it, and the moments that a model finds."""
