#!/bin/busybox sh
# The guest's first process. Its root is the host's own, read-only, with a layer in memory over it; what a distribution would mount, it mounts.
B=/bin/busybox
. /settings
$B mount -t proc proc /proc
$B mount -t devtmpfs dev /dev
$B modprobe -a virtio_pci virtiofs overlay
$B mount -t virtiofs -o ro host /host
$B mount -t tmpfs layer /layer
$B mkdir /layer/upper /layer/work
$B mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root
$B mount -t proc proc /root/proc
$B mount -t sysfs sys /root/sys
$B mount -t devtmpfs dev /root/dev
$B mkdir -p /root/dev/pts /root/dev/shm "/root/usr/lib/modules/$VERSION"
$B mount -t devpts -o mode=620,ptmxmode=666 pts /root/dev/pts
for folder in dev/shm tmp run; do
  $B mount -t tmpfs -o mode=1777 tmp "/root/$folder"
done
# What udev makes.
$B ln -s /proc/self/fd /root/dev/fd
for name in stdin:0 stdout:1 stderr:2; do
  $B ln -s "/proc/self/fd/${name#*:}" "/root/dev/${name%:*}"
done
# Version 2 alone, as on current distributions.
$B mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
# The kernel loads what is asked of it, nftables say, by this name.
$B mount --bind "/host$MODULES" "/root/usr/lib/modules/$VERSION"
$B ln -sf /bin/busybox /root/usr/sbin/modprobe
$B cp /settings /cases.sh /root/run
exec $B switch_root /root /bin/sh /run/cases.sh
