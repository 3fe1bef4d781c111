"""Features that others released become feature sets."""
