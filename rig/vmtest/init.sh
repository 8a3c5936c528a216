#!/bin/busybox sh
# The guest's init: mount what Linux programs expect, run the test with its
# output on the second serial port, hand its status over on the third.
export PATH=/t/bin:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin HOME=/root
mount -t devtmpfs dev /dev 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /dev/net
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/netns /var/run /var/lib
mount -t cgroup2 cgroup /sys/fs/cgroup 2>/dev/null
ln -s /proc/self/fd /dev/fd
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200 # opening it loads the module
ip link set lo up
stty -F /dev/ttyS1 raw -echo # otherwise every \n becomes \r\n
stty -F /dev/ttyS2 raw -echo
(
	. /t/env
	cd /t/cwd && exec /bin/sh /t/cmd
) </dev/null >/dev/ttyS1 2>&1
rc=$?
# /out goes back as a bare tar on the one disk there is.
if [ -b /dev/nvme0n1 ] && [ -n "$(ls -A /out)" ]; then
	tar -cf /dev/nvme0n1 -C /out . && sync
fi
echo "$rc" >/dev/ttyS2
reboot -f
