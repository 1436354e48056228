"""The gateway: the one door. It speaks HTTP and gRPC to clients, and works from the descriptor set alone."""
