#!/usr/bin/env bash
# Puts together what the container image holds, and nothing else: rootfs.sh BINARY FOLDER
#
# The binary, the shared libraries that it names and their loader, root certificates, the few files of /etc that glibc reads, the folders it may
# write to, licences and a bill of materials. No shell, no package manager. For the Dockerfile and for build.sh; on Debian 12 or newer (glibc 2.34
# and newer look up names without further libraries). Needs binutils, ca-certificates, python3 and cargo.
#
#   SOURCE_DATE_EPOCH   the time of everything in it (seconds since 1970)
#   SIDELIGHT_REVISION  the commit, for the bill of materials
#   SIDELIGHT_STRIP     debug (default): functions keep their names in backtraces; all: they do not, for 20 % less; none
#
# Whoever packs the folder gives the folders named in `owned` to the user 65532, and everything else to root (owners need root, packing does not).
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# == 2 ]] || { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
: "${SOURCE_DATE_EPOCH:?the time of everything in the image}"
export SOURCE_DATE_EPOCH
binary=$1
root=$2
mkdir -p "$root"
[[ -z $(ls -A "$root") ]] || { echo "$root is not empty" >&2; exit 2; }

install -D -m 755 "$binary" "$root/usr/bin/sidelight"
case ${SIDELIGHT_STRIP:-debug} in
    debug) strip --strip-debug "$root/usr/bin/sidelight" ;;
    all) strip --strip-all "$root/usr/bin/sidelight" ;;
    none) ;;
    *) echo "SIDELIGHT_STRIP is debug, all or none" >&2; exit 2 ;;
esac

# Every library under the name by which it is asked for; the loader looks in these folders by itself. The vdso is the kernel's.
files=()
while read -r library; do
    install -D -m 755 "$(readlink -f "$library")" "$root$library"
    files+=("$library")
done < <(ldd "$binary" | sed -n -e 's/^.* => \(\/[^ ]*\) .*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*\) .*/\1/p' | LC_ALL=C sort -u)
((${#files[@]} > 1)) || { echo "ldd names no libraries of $binary" >&2; exit 1; }

certificates=/etc/ssl/certs/ca-certificates.crt
install -D -m 644 "$(readlink -f "$certificates")" "$root$certificates"
files+=("$certificates")

cat >"$root/etc/passwd" <<'TEXT'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/var/lib/sidelight:/sbin/nologin
TEXT
cat >"$root/etc/group" <<'TEXT'
root:x:0:
nonroot:x:65532:
TEXT
cat >"$root/etc/nsswitch.conf" <<'TEXT'
passwd: files
group: files
hosts: files dns
TEXT
mkdir -p "$root/etc/sidelight"
mkdir -m 1777 "$root/tmp"
chmod 1777 "$root/tmp"

# What the user 65532 owns.
owned=(var/cache/sidelight var/lib/sidelight)
for folder in "${owned[@]}"; do mkdir -p "$root/$folder"; done

SIDELIGHT_TARGET=${SIDELIGHT_TARGET:-$(uname -m)-unknown-linux-gnu} "$here/sbom.py" "$root/usr/bin/sidelight" "$root" "${files[@]}"

find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
