"""Leaderboards: rows made one like another, kept, compared, and shown."""
