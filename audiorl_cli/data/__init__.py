"""Recordings -> shards. No jax, no EasyDeL."""
