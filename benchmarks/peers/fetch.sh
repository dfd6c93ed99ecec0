#!/bin/sh
# Fetches Debian's qemu-storage-daemon, nbdkit and libnbd, with what they need that this machine lacks, and unpacks them
# under DIR. Nothing is installed and nothing needs root. Where that cannot be done, DIR/lacking says why, and the
# benchmarks and the tests that want these peers say it again.
#
#     fetch.sh DIR
set -eu

dir=$1
packages="qemu-utils nbdkit libnbd0 libnbd-dev"

lack() {
    echo "$1" >"$dir/lacking"
    echo "the peers are not at hand: $1" >&2
    exit 0
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
[ -e "$dir/ready" ] && [ "$dir/ready" -nt "$0" ] && exit 0
rm -rf "$dir/lacking" "$dir/ready" "$dir/root" "$dir/debs"
command -v apt-get >/dev/null && command -v dpkg >/dev/null || lack "this machine has no apt-get"

# Package lists of our own, from the machine's own sources: its lists may be empty or old, and to renew them needs root.
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/debs" "$dir/root"
options="-qq -o APT::Sandbox::User= -o Acquire::Languages=none -o APT::Install-Recommends=false
         -o Dir::State::lists=$dir/lists -o Dir::Cache=$dir/cache"
apt-get $options update || lack "apt-get update failed"
needed=$(apt-get $options --simulate install $packages) || lack "apt-get does not find all of $packages"
needed=$(echo "$needed" | awk '$1 == "Inst" { print $2 }')
# A package that the machine has already is not needed, but its files are wanted in the same place as the others'.
wanted=$(printf '%s\n' $needed $packages | sort -u)
(cd "$dir/debs" && apt-get $options download $wanted) || lack "apt-get could not download all of" $wanted

for deb in "$dir"/debs/*.deb; do
    dpkg -x "$deb" "$dir/root"
done
rm -rf "$dir/cache" "$dir/lists" "$dir/debs"
touch "$dir/ready"
