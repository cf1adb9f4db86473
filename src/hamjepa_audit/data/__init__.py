"""From raw images to a prepared store, and from the store to batches of views."""
