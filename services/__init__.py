"""The four services. None imports another; they meet through their contracts and their events."""
