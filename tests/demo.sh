#!/bin/sh
# `make demo`: a real file system through the ring and back, then what each way of moving its data costs.
set -eu

xenblk=${XENBLK:-xenblk}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

echo "== an ext4 image, copied into a virtual disk through the ring, and back"
image=$folder/fs.img
truncate -s 32M "$image"
if command -v mke2fs >/dev/null; then
    mkdir "$folder/files"
    cp -r ring grants xenblk harness "$folder/files/"
    mke2fs -q -t ext4 -d "$folder/files" "$image"
else
    echo "   (mke2fs is not here: a generated image takes its place)"
    awk 'BEGIN { srand(1); for (i = 0; i < 2000000; i++) printf "%d", rand() * 1000000000 }' | head -c 8388608 |
        dd of="$image" conv=notrunc status=none
fi
truncate -s 32M "$folder/disk.img"
"$xenblk" copy "$image" vbd:xvda --disk "$folder/disk.img"
"$xenblk" copy vbd:xvda "$folder/back.img" --disk "$folder/disk.img"
(cd "$folder" && sha256sum fs.img back.img)
cmp "$image" "$folder/back.img"
if command -v e2fsck >/dev/null && command -v mke2fs >/dev/null; then
    e2fsck -fn "$folder/back.img"
fi

echo
echo "== the same requests in four modes, each map, unmap and copy counted"
"$xenblk" compare
