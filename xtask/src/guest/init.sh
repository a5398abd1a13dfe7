#!/bin/busybox sh
# Mounts the machine's files under a layer of memory that takes the writes, and goes on in them.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
while read module; do $B insmod /modules/$module || echo "init: no $module"; done < /modules/order
fail() { echo "init: cannot mount $1"; echo o > /proc/sysrq-trigger; $B sleep 10; }
$B mount -t tmpfs tmpfs /layer && $B mkdir -p /layer/upper /layer/work
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro machine /machine || fail machine
$B mount -t overlay -o lowerdir=/machine,upperdir=/layer/upper,workdir=/layer/work overlay /root || fail overlay
$B mount -t tmpfs tmpfs /root/run && $B mount -t tmpfs tmpfs /root/mnt && $B mount -t tmpfs tmpfs /root/tmp
$B mkdir -p /root/mnt/shared
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none shared /root/mnt/shared || fail shared
$B mount -t devtmpfs dev /root/dev
$B mkdir -p /root/dev/pts /root/dev/shm
$B mount -t devpts devpts /root/dev/pts
$B mount -t tmpfs shm /root/dev/shm
$B mount -t proc proc /root/proc
$B mount -t sysfs sys /root/sys
exec $B switch_root /root /bin/bash /mnt/shared/run </dev/hvc0 >/dev/hvc0 2>&1
