#!/bin/sh
# check.sh runs inside the booted machine and writes one file per question.
say() { # FILE COMMAND…
	f=$1
	shift
	"$@" >"/out/$f" 2>&1 || echo "status $?" >>"/out/$f"
}
pid=$(systemctl show -p MainPID --value pic)
say active systemctl is-active pic
say restarts systemctl show -p NRestarts --value pic
say caps sed -n 's/^CapEff:[^0-9a-f]*//p' "/proc/$pid/status"
say nonewprivs sed -n 's/^NoNewPrivs:[^0-9]*//p' "/proc/$pid/status"
say forward cat /proc/sys/net/ipv4/ip_forward
say status pic status --json
say member setpriv --reuid=nobody --regid=pic-admin --clear-groups pic api GET /api/revision
say stranger setpriv --reuid=nobody --regid=nogroup --clear-groups pic api GET /api/revision
say exit pic exit add tor --name onion
tor= n=0
while [ -z "$tor" ] && [ $n -lt 100 ]; do
	for p in /proc/[0-9]*; do
		read -r name <"$p/comm" && [ "$name" = tor ] && tor=$p
	done 2>/dev/null
	n=$((n + 1))
	sleep 0.2
done
say tor_user stat -c %U "$tor"
say tor_caps sed -n 's/^Cap\(Eff\|Prm\|Inh\|Amb\):[^0-9a-f]*//p' "$tor/status"
say tor_group cat "$tor/cgroup"
say pic_group cat "/proc/$pid/cgroup"
say tor_data stat -c '%U %a' /var/cache/pic/tor/*
say link ip link show pic0
say before nft list tables
began=$(date +%s%N)
systemctl stop pic
echo $((($(date +%s%N) - began) / 1000000)) >/out/stop_ms
say after nft list tables
say rules ip rule
say early_unit journalctl -u pic-early --no-pager -o cat
say journal journalctl -u pic --no-pager -o cat
