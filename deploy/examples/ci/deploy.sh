#!/usr/bin/env bash
# Deploys a preview of the program in the current folder (fastly.toml, bin/main.wasm): what a pipeline runs for each push to a pull request.
#
#   PREVIEW_ID      the pull request's number; the release is pr-ID
#   PREVIEW_HOST    where it is served: pr-123.preview.example.com
#   PROGRAM         where programs go, REGISTRY/REPOSITORY; `docker login` or `helm registry login` came before
#   CHART           the chart: a folder, or oci://REGISTRY/REPOSITORY
#   NAMESPACE       default: previews
#   VALUES          further values, a file; default: preview.values.yaml beside this script
#
# Prints the preview's address as its last line. Needs sidelight, helm and a kubeconfig.
set -euo pipefail
: "${PREVIEW_ID:?}" "${PREVIEW_HOST:?}" "${PROGRAM:?}" "${CHART:?}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# By its digest: what is served is what this pipeline has built, whoever moves the tag.
reference=$(sidelight push bin/main.wasm "oci://$PROGRAM:pr-$PREVIEW_ID")
helm upgrade --install "pr-$PREVIEW_ID" "$CHART" --namespace "${NAMESPACE:-previews}" --create-namespace --wait --timeout 3m \
    --values "${VALUES:-$here/preview.values.yaml}" \
    --set mode=preview --set-string preview.id="$PREVIEW_ID" --set preview.host="$PREVIEW_HOST" \
    --set module.oci.repository="$PROGRAM" --set module.oci.digest="${reference#*@}" \
    --set-file manifest.toml=fastly.toml >&2
helm test "pr-$PREVIEW_ID" --namespace "${NAMESPACE:-previews}" >&2
echo "https://$PREVIEW_HOST/"
