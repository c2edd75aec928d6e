#!/usr/bin/env bash
# An empty stand-in cluster, for a person or another test: tests/cluster/up.sh FOLDER [OPTION …]
#
# Runs until it is told to end (SIGTERM, SIGINT). When the cluster is up, it prints lines NAME=VALUE, of which the last is "READY=1":
#   KUBECONFIG  for helm and kubectl, from outside of the cluster's network
#   GATEWAY     http://…: what HTTPRoutes and Ingresses lead to, by the Host of a request
#   REGISTRY, REGISTRY_OUTSIDE, REGISTRY_CA, REGISTRY_USER, REGISTRY_PASSWORD
#               with --registry: an OCI registry over TLS, its name for Pods and its address from outside
# `kubectl port-forward` reaches Services and Pods. FOLDER is made, and holds logs and everything else; it is left there.
#
#   --image NAME=PROGRAM   an image FROM scratch with that program as its entry point; sidelight/sidelight:* is there in any case
#   --custom GROUP         kinds of monitoring.coreos.com, gateway.networking.k8s.io, keda.sh, cert-manager.io; may be given several times
#   --registry             an OCI registry
#   --kubernetes VERSION   what it says it is (v1.35.2)
#   --cron-speed N         how many seconds of cron's clock pass in one (60)
#
# Needs what run.sh needs. host.test/tools:* is this machine as an image.
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec python3 "$here/up.py" "$@"
