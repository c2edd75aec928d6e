"""What kube-proxy, the cluster's DNS and an ingress controller do."""
