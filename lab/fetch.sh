#!/bin/sh
# Fetches from Debian 12 what the lab is made of and unpacks it under DIR. Nothing is installed and nothing needs root.
#
#     fetch.sh DIR
#
# DIR/machine    QEMU with what it needs and this machine lacks; empty if this machine has qemu-system-x86_64
# DIR/kernel     Xen, Linux and its modules
# DIR/dom0       the programs of domain 0
# DIR/guest      the programs of guests
# DIR/boot/qemu  QEMU with what it needs, as a block backend inside domain 0, which finds it as /lab/boot/qemu
set -eu

dir=$1
release=4.17
tools="python3 python3-cffi-backend python3-click python3-pyxs python3-rich
       xen-utils-$release xen-utils-common xenstore-utils bash coreutils e2fsprogs grep kmod mount procps sed util-linux"

lack() {
    echo "make xen-lab cannot go on: $1" >&2
    exit 1
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
rm -rf "$dir/fetched" "$dir/machine" "$dir/kernel" "$dir/dom0" "$dir/guest" "$dir/boot" "$dir/cache"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || lack "it needs Debian's apt-get and dpkg-deb"

# Package lists of our own, from the machine's own sources: its lists may be empty or old, and to renew them needs root.
mkdir -p "$dir/lists/partial" "$dir/machine"
bare=$dir/lists/no-packages
: >"$bare"
options="-qq -o APT::Sandbox::User= -o Acquire::Languages=none -o APT::Install-Recommends=false
         -o APT::Update::Error-Mode=any -o Dir::State::lists=$dir/lists"
apt-get $options update || lack "apt-get update failed"

# unpack FOLDER STATUS PACKAGE...: the packages with all they depend on, but what the dpkg status file has.
unpack() {
    folder=$dir/$1 state=$2
    shift 2
    mkdir -p "$dir/cache/archives/partial" "$folder/usr/bin" "$folder/usr/sbin" "$folder/usr/lib" "$folder/usr/lib64"
    for link in bin sbin lib lib64; do
        ln -s usr/$link "$folder/$link"
    done
    with="$options -o Dir::Cache=$dir/cache -o Dir::State::status=$state"
    apt-get $with --download-only install "$@" >/dev/null || lack "apt-get could not download $*, of Debian 12"
    for deb in "$dir"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$folder" --keep-directory-symlink --exclude='./usr/share/doc/*' \
            --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/i18n/*' --exclude='./dev/*'
    done
    rm -rf "$dir/cache"
}

unpack dom0 "$bare" $tools
unpack boot/qemu "$bare" qemu-system-xen
kernel=$(apt-get $options -o Dir::State::status="$bare" --simulate install linux-image-amd64 |
    awk '$1 == "Inst" && $2 ~ /^linux-image-[0-9]/ { print $2 }')
only() {
    mkdir -p "$dir/cache/archives/partial" "$dir/$1"
    (cd "$dir/cache" && apt-get $options -o Dir::State::status="$bare" download "$2") || lack "apt-get could not download $2, of Debian 12"
    dpkg-deb --fsys-tarfile "$dir"/cache/*.deb | tar -x -C "$dir/$1"
    rm -rf "$dir/cache"
}
only kernel "$kernel"
only kernel xen-hypervisor-$release-amd64
only guest busybox-static
if ! command -v qemu-system-x86_64 >/dev/null; then
    unpack machine /var/lib/dpkg/status qemu-system-x86
fi
rm -rf "$dir/lists"
touch "$dir/fetched"
