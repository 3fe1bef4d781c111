"""Finished runs side by side: what differs, which is better, how sure that is, and where."""
