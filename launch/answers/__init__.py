"""Sentences asked of many videos: how the answers are found, kept and shown."""
