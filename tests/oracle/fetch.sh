#!/bin/sh
# Fetches Debian's own xenstored and what goes with it, unpacks it under DIR and builds the shim that lets it run without
# Xen. Nothing is installed and nothing needs root. Where that cannot be done, DIR/lacking says why, and the tests that
# compare with the real daemon say it again.
#
#     fetch.sh DIR
set -eu

dir=$1
here=$(cd "$(dirname "$0")" && pwd)
packages="xen-utils-4.17 xenstore-utils libxen-dev libxenstore4 libxenmisc4.17 libxencall1 libxendevicemodel1
          libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxentoolcore1 libxentoollog1"
pyxs_source=python-pyxs

lack() {
    echo "$1" >"$dir/lacking"
    echo "the real xenstored is not at hand: $1" >&2
    exit 0
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
rm -rf "$dir/lacking" "$dir/ready" "$dir/root" "$dir/debs" "$dir/pyxs"
command -v apt-get >/dev/null && command -v dpkg >/dev/null || lack "this machine has no apt-get"

# Package lists of our own, from the machine's own sources: its lists may be empty or old, and to renew them needs root.
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/sources" "$dir/debs" "$dir/root"
for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
    [ -f $list ] && sed 's/^Types: .*/Types: deb deb-src/; s/^deb \(.*\)/deb \1\ndeb-src \1/' $list >"$dir/sources/${list##*/}"
done
[ -f "$dir/sources/sources.list" ] && mv "$dir/sources/sources.list" "$dir/sources/own.list"
options="-qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$dir/sources -o APT::Sandbox::User=
         -o Dir::State::lists=$dir/lists -o Dir::Cache=$dir/cache"
apt-get $options update || lack "apt-get update failed"
(cd "$dir/debs" && apt-get $options download $packages) || lack "apt-get could not download Debian 12's xen-utils-4.17"
(cd "$dir/debs" && apt-get $options source --download-only --tar-only $pyxs_source) >/dev/null ||
    lack "apt-get could not download the source of $pyxs_source"

for deb in "$dir"/debs/*.deb; do
    dpkg -x "$deb" "$dir/root"
done
mkdir -p "$dir/pyxs"
tar -xzf "$dir"/debs/python-pyxs_*.orig.tar.gz -C "$dir/pyxs" --strip-components=1
${CC:-cc} -std=gnu11 -Wall -Wextra -Werror -O2 -fPIC -shared -I"$dir/root/usr/include" -o "$dir/shim.so" "$here/shim.c" -ldl
rm -rf "$dir/cache" "$dir/lists"
touch "$dir/ready"
