"""A stand-in for a Kubernetes cluster: API server, controllers, kubelet, Services, DNS and a gateway, in one process and its own
network. Containers are real: they run under crun, in namespaces, with the security context of their manifest."""
