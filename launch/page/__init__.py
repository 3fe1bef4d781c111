"""The demo page: what is on it, what its server answers, which videos it holds."""
