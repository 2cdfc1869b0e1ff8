"""Live updates: the socket says only that something changed, and the page fetches it again."""
