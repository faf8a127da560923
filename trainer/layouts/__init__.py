"""What an adapter file says: its header, the names of its tensors, and the layers that they make."""
