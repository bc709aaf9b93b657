"""The learning: rewards, engines, runs."""
