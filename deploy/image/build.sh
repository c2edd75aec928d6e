#!/usr/bin/env bash
# Makes the container image without Docker: an OCI layout, the same to the last bit from the same binary.
#
#   build.sh [--binary FILE] [--output FOLDER] [--tag TAG] [--source URL] [--push REGISTRY/REPOSITORY:TAG [--plain-http]]
#
#   --binary      default: target/dist/sidelight (cargo build --locked --profile dist), else target/release/sidelight
#   --output      where the layout goes, made anew; default: target/image
#   --tag         its name within the layout; default: the version
#   --source      where the source is, for the image's labels; default: git's remote `origin`
#   --push        to a registry, with the credentials of `skopeo login`; --plain-http for one without TLS
#
# SOURCE_DATE_EPOCH is the time of everything in it; default: that of the last commit. SIDELIGHT_STRIP: see rootfs.sh.
# Prints digest and sizes. Needs Debian's umoci, skopeo, binutils, ca-certificates and jq, and what rootfs.sh needs.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
usage() { sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
die() { echo "build.sh: $*" >&2; exit 2; }

binary=$project/target/dist/sidelight
[[ -x $binary ]] || binary=$project/target/release/sidelight
output=$project/target/image
tag='' source='' push='' tls=true
while (($#)); do
    case $1 in
        --binary | --output | --tag | --source | --push)
            (($# > 1)) || die "$1 wants a value"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --plain-http) tls=false; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown: $1" ;;
    esac
done

for tool in umoci skopeo jq strip ldd cargo python3; do
    command -v "$tool" >/dev/null || die "$tool is not there"
done
[[ -x $binary ]] || die "$binary is not there: cargo build --locked --profile dist, or --binary"

git() { command git -C "$project" "$@" 2>/dev/null; }
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct || true)}
[[ $SOURCE_DATE_EPOCH ]] || die "this is no git repository: SOURCE_DATE_EPOCH must be set"
export SIDELIGHT_REVISION=${SIDELIGHT_REVISION:-$(git rev-parse HEAD || true)}
source=${source:-$(git remote get-url origin || true)}
version=$("$binary" --version | cut -d' ' -f2)
tag=${tag:-$version}
created=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) die "no name for the architecture $(uname -m)" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/rootfs.sh" "$binary" "$work/root"

# Names in order, owners by number, no time but one. Two tars of one another, as owners differ and nobody here need be root.
pack() {
    tar --create --format=pax --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --sort=name --numeric-owner \
        --mtime="@$SOURCE_DATE_EPOCH" --directory="$work/root" --no-recursion "$@"
}
owned=(./var/cache/sidelight ./var/lib/sidelight)
(cd "$work/root" && find . -mindepth 1 | LC_ALL=C sort | grep --invert-match --line-regexp --fixed-strings "${owned[@]/#/--regexp=}") >"$work/names"
pack --owner=0 --group=0 --file="$work/layer.tar" --files-from="$work/names"
pack --owner=65532 --group=65532 --file="$work/owned.tar" "${owned[@]}"
tar --concatenate --file="$work/layer.tar" "$work/owned.tar"

rm -rf "$output"
mkdir -p "$(dirname "$output")"
labels=(
    org.opencontainers.image.title=sidelight
    "org.opencontainers.image.description=Runs compiled Fastly Compute programs in your own cluster"
    "org.opencontainers.image.version=$version"
    "org.opencontainers.image.created=$created"
    org.opencontainers.image.licenses=Apache-2.0
)
[[ $SIDELIGHT_REVISION ]] && labels+=("org.opencontainers.image.revision=$SIDELIGHT_REVISION")
[[ $source ]] && labels+=("org.opencontainers.image.source=$source")
config=()
for label in "${labels[@]}"; do config+=(--config.label="$label" --manifest.annotation="$label"); done

{
    umoci init --layout "$output"
    umoci new --image "$output:$tag"
    umoci raw add-layer --image "$output:$tag" --history.created "$created" --history.created_by "deploy/image/build.sh" "$work/layer.tar"
    umoci config --image "$output:$tag" --no-history --created "$created" --architecture "$architecture" --os linux \
        --config.user 65532:65532 --config.workingdir /etc/sidelight \
        --config.entrypoint /usr/bin/sidelight --config.cmd serve \
        --config.env PATH=/usr/bin --config.env XDG_CACHE_HOME=/var/cache/sidelight \
        --config.exposedports 8080/tcp --config.exposedports 8443/tcp --config.exposedports 9090/tcp --config.exposedports 9091/tcp \
        "${config[@]}"
    # What came to be on the way is not part of it.
    umoci gc --layout "$output"
} >&2

if [[ $push ]]; then
    skopeo copy --quiet --dest-tls-verify="$tls" "oci:$output:$tag" "docker://$push" >&2
fi

digest=$(skopeo inspect --format '{{.Digest}}' "oci:$output:$tag")
manifest=$output/blobs/sha256/${digest#sha256:}
printf 'image %s:%s\ndigest %s\ncompressed %s bytes\nuncompressed %s bytes\n' "$output" "$tag" "$digest" \
    "$(jq '[.layers[].size] | add' "$manifest")" "$(stat --format=%s "$work/layer.tar")"
