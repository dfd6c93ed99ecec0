#!/bin/sh
# Fetches Debian's qemu-storage-daemon, nbdkit and libnbd, with what they need that this machine lacks, and unpacks them
# under DIR. Nothing is installed and nothing needs root. Where that cannot be done, DIR/lacking says why, and the
# benchmarks and the tests that want these peers say it again.
#
#     fetch.sh DIR
set -eu

dir=$1
packages="qemu-system-common nbdkit libnbd0 libnbd-dev"
# Depends on what qemu-storage-daemon needs and on little more; qemu-system-common, where it is, on all that QEMU needs.
stand_in=qemu-utils

lack() {
    rm -rf "$dir/cache" "$dir/lists" "$dir/debs" "$dir/root"
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
         -o APT::Update::Error-Mode=any -o Dir::State::lists=$dir/lists -o Dir::Cache=$dir/cache"
apt-get $options update || lack "apt-get update failed"
plan=$(apt-get $options --simulate install nbdkit libnbd0 libnbd-dev $stand_in) || lack "apt-get cannot install them"
lacking=$(echo "$plan" | awk -v stand_in=$stand_in '$1 == "Inst" && $2 != stand_in { print $2 }')
# What the machine has already is fetched too if it is one of the packages: all of them are wanted in one place.
wanted=$(printf '%s\n' $lacking $packages | sort -u | tr '\n' ' ')
(cd "$dir/debs" && apt-get $options download $wanted) || lack "apt-get could not download all of: $wanted"

for deb in "$dir"/debs/*.deb; do
    dpkg -x "$deb" "$dir/root"
done
rm -rf "$dir/cache" "$dir/lists" "$dir/debs"
[ -x "$dir/root/usr/bin/qemu-storage-daemon" ] || lack "qemu-system-common has no qemu-storage-daemon"
touch "$dir/ready"
