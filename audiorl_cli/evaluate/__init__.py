"""Checkpoint + shards -> transcripts and scores."""
