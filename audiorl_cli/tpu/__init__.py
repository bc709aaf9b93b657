"""Before a pod is rented: its programs, compiled ahead of time, and what they would take of its chips."""
