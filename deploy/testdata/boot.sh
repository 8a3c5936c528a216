# boot.sh WORK BINARY NETNS - boots this machine's own Debian, overlaid with the
# files a package would install, under systemd-nspawn in the given network
# namespace; WORK/out receives what check.sh found. Runs in a mount namespace
# of its own, so nothing stays behind.
set -eu
work=$1 binary=$2 netns=$3
mount --make-rprivate /
mkdir -p "$work/fs" "$work/out"
mount -t tmpfs fs "$work/fs"
mkdir "$work/fs/upper" "$work/fs/work" "$work/fs/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/fs/upper,workdir=$work/fs/work" root "$work/fs/root"
root=$work/fs/root
mount -t tmpfs run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
rm -rf "$root/var/lib/pic"

# What README.md says to install.
install -m 755 "$binary" "$root/usr/bin/pic"
install -m 644 pic.service pic-early.service "$root/etc/systemd/system/"
mkdir -p "$root/etc/systemd/system/sysinit.target.wants"
ln -s ../pic-early.service "$root/etc/systemd/system/sysinit.target.wants/"
# Seen between the two: what the early unit left, before anything of the cell's.
mkdir -p "$root/etc/systemd/system/pic.service.d"
printf '[Service]\nExecStartPre=+/bin/sh -c "nft list ruleset >/out/early; cat /proc/sys/net/ipv4/ip_forward >/out/early_forward"\n' \
	>"$root/etc/systemd/system/pic.service.d/look.conf"
mkdir -p "$root/etc/sysusers.d" "$root/etc/sysctl.d" "$root/etc/modules-load.d"
install -m 644 sysusers.d/pic.conf "$root/etc/sysusers.d/"
install -m 644 sysctl.d/60-pic.conf "$root/etc/sysctl.d/"
systemd-sysusers --root="$root" 2>/dev/null

# Claim it without a person.
install -d -m 700 "$root/var/lib/pic"
cat >"$root/var/lib/pic/init.json" <<'JSON'
{"cell_name": "home", "domain_mode": "lan", "timezone": "UTC", "user": "admin", "password": "walrus lantern gravel sonnet 41"}
JSON
echo PIC_INIT_FILE=/var/lib/pic/init.json >"$root/etc/default/pic"
rm -f "$root/etc/resolv.conf"
echo nameserver 192.0.2.53 >"$root/etc/resolv.conf"

install -m 755 testdata/check.sh "$root/usr/bin/pic-check"
cat >"$root/etc/systemd/system/check.service" <<'UNIT'
[Unit]
Wants=pic.service
After=pic.service
[Service]
Type=oneshot
ExecStart=/usr/bin/pic-check
StandardOutput=append:/out/log
StandardError=inherit
ExecStopPost=/bin/systemctl --no-block exit 0
UNIT
printf '[Unit]\nWants=check.service\n' >"$root/etc/systemd/system/check.target"
: >"$root/etc/machine-id"

export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec timeout 90 systemd-nspawn -D "$root" --register=no --keep-unit --capability=CAP_NET_ADMIN \
	--network-namespace-path="/run/netns/$netns" --bind=/dev/net/tun --bind="$work/out:/out" \
	--resolv-conf=off --console=pipe -q --boot --kill-signal=SIGRTMIN+3 -- systemd.unit=check.target </dev/null
