"""Records of one instance's run: what it sent, received and computed."""
