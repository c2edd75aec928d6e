"""The API server's part: objects, their rules, and the protocol that kubectl and Helm speak."""
