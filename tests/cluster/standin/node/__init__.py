"""What kubelet and the container runtime do."""
