"""What kube-controller-manager and the scheduler do."""
