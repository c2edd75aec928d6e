#!/usr/bin/env bash
# Removes the preview of a pull request that is closed. Should this never run, the chart removes it (preview.ttl).
#
#   PREVIEW_ID   the pull request's number
#   NAMESPACE    default: previews
set -euo pipefail
: "${PREVIEW_ID:?}"
helm uninstall "pr-$PREVIEW_ID" --namespace "${NAMESPACE:-previews}" --ignore-not-found --wait
