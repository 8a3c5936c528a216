package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
)

// Addresses of the host that is the far end of every exit.
const (
	ExitAddress4 = "198.51.100.50"
	ExitAddress6 = "2001:db8:100::50"

	ExitWireGuardPort = "51821"
	ExitSSHPort       = "22"
	ExitSOCKSPort     = "1080"
	ExitCONNECTPort   = "8888"
	ExitOpenVPNPort   = "1194"
)

// AddHost plugs another machine into the internet.
func (l *Lab) AddHost(name, v4, v6 string) *Host {
	l.t.Helper()
	h := newHost(l.t, filepath.Join(l.dir, name), name, []string{InternetDNS4})
	l.Internet.port("br0", h, "eth0", v4+"/24", v6+"/64")
	h.defaultRoute(InternetGateway4, "2001:db8:100::1")
	return h
}

// ExitHost is a machine of the internet on which the far end of each type of
// exit runs: stock WireGuard, sshd, a SOCKS5 server (dante), an HTTP proxy
// (tinyproxy). What comes out of it has its own addresses.
type ExitHost struct {
	*Host
	lab *Lab
	// WireGuard is the wg-quick file of its client, SSHKey the private key that
	// its sshd lets in as root, SSHHostKey its own key in authorized_keys form.
	WireGuard, SSHKey, SSHHostKey string

	stop map[string]func()
}

// NewExitHost builds the machine; [ExitHost.Run] starts its servers.
func (l *Lab) NewExitHost() *ExitHost {
	l.t.Helper()
	netnstest.Need(l.t, "wg", "wg-quick", "sshd", "ssh-keygen", "danted", "tinyproxy")
	e := &ExitHost{Host: l.AddHost("exit", ExitAddress4, ExitAddress6), lab: l, stop: map[string]func(){}}
	e.ns.Sysctl("net.ipv4.ip_forward", "1")
	e.ns.Sysctl("net.ipv6.conf.all.forwarding", "1")
	e.nft(`
table inet nat {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname eth0 masquerade
	}
}`)
	e.configureWireGuard()
	e.configureSSH()
	e.WriteFile("/etc/danted.conf", `
logoutput: stderr
internal.protocol: ipv4
external.protocol: ipv4 ipv6
internal: eth0 port = `+ExitSOCKSPort+`
external: eth0
socksmethod: none
clientmethod: none
user.privileged: root
user.unprivileged: nobody
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
client pass { from: ::/0 to: ::/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 command: connect udpassociate udpreply }
socks pass { from: ::/0 to: ::/0 command: connect udpassociate udpreply }
`)
	e.WriteFile("/etc/tinyproxy.conf", "User nobody\nGroup nogroup\nPort "+ExitCONNECTPort+"\nTimeout 600\nMaxClients 200\nDisableViaHeader Yes\nLogLevel Critical\n")
	return e
}

func (e *ExitHost) key() (private, public string) {
	private = strings.TrimSpace(e.Exec("wg", "genkey"))
	public = strings.TrimSpace(e.Sh("echo " + private + " | wg pubkey"))
	return private, public
}

func (e *ExitHost) configureWireGuard() {
	server, serverPublic := e.key()
	client, clientPublic := e.key()
	psk := strings.TrimSpace(e.Exec("wg", "genpsk"))
	e.WriteFile("/etc/wireguard/wgs.conf", fmt.Sprintf(`[Interface]
PrivateKey = %s
ListenPort = %s
Address = 10.64.0.1/24, fd64::1/64
[Peer]
PublicKey = %s
PresharedKey = %s
AllowedIPs = 10.64.0.2/32, fd64::2/128
`, server, ExitWireGuardPort, clientPublic, psk))
	e.Exec("chmod", "600", "/etc/wireguard/wgs.conf")
	e.WireGuard = fmt.Sprintf(`[Interface]
PrivateKey = %s
Address = 10.64.0.2/32, fd64::2/128
DNS = %s
[Peer]
PublicKey = %s
PresharedKey = %s
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = %s:%s
PersistentKeepalive = 5
`, client, InternetDNS4, serverPublic, psk, ExitAddress4, ExitWireGuardPort)
}

func (e *ExitHost) configureSSH() {
	for _, f := range []string{"host", "client"} {
		e.Exec("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "/etc/ssh/lab_"+f)
	}
	e.SSHKey = e.Exec("cat", "/etc/ssh/lab_client")
	e.SSHHostKey = strings.TrimSpace(e.Exec("cat", "/etc/ssh/lab_host.pub"))
	e.Sh("mkdir -p /run/sshd && cp /etc/ssh/lab_client.pub /etc/ssh/lab_authorized")
	e.WriteFile("/etc/ssh/lab_config", `
Port `+ExitSSHPort+`
HostKey /etc/ssh/lab_host
AuthorizedKeysFile /etc/ssh/lab_authorized
StrictModes no
PermitRootLogin prohibit-password
UsePAM no
PidFile none
AllowTcpForwarding yes
LogLevel ERROR
MaxStartups 100:30:200
`)
}

// Servers are the names that [ExitHost.Run] and [ExitHost.Stop] know.
func (e *ExitHost) Servers() []string { return []string{"wireguard", "ssh", "socks", "connect"} }

// Run starts a server, or all of them when none is named.
func (e *ExitHost) Run(names ...string) {
	e.t.Helper()
	if len(names) == 0 {
		names = e.Servers()
	}
	for _, n := range names {
		switch {
		case e.stop[n] != nil:
		case n == "wireguard":
			e.Exec("env", "WG_QUICK_USERSPACE_IMPLEMENTATION="+wireguardGo(e.t), "wg-quick", "up", "wgs")
			e.stop[n] = func() { e.Exec("wg-quick", "down", "wgs") }
		case n == "ssh":
			e.daemon(n, ExitSSHPort, "/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/lab_config")
		case n == "socks":
			e.daemon(n, ExitSOCKSPort, "danted", "-f", "/etc/danted.conf")
		case n == "connect":
			e.daemon(n, ExitCONNECTPort, "tinyproxy", "-d", "-c", "/etc/tinyproxy.conf")
		default:
			e.t.Fatalf("no server %q", n)
		}
	}
}

// Stop kills a server, or all of them when none is named.
func (e *ExitHost) Stop(names ...string) {
	e.t.Helper()
	if len(names) == 0 {
		names = e.Servers()
	}
	for _, n := range names {
		if stop := e.stop[n]; stop != nil {
			delete(e.stop, n)
			stop()
		}
	}
}

// daemon starts a server; stopping it kills what it forked for its clients too.
func (e *ExitHost) daemon(name, port, program string, args ...string) {
	e.t.Helper()
	c := e.Command(program, args...)
	log, err := os.Create(filepath.Join(e.lab.logs, "exit-"+name))
	if err != nil {
		e.t.Fatal(err)
	}
	c.Stdout, c.Stderr = log, log
	stop := netnstest.Start(e.t, c)
	e.stop[name] = func() {
		stop()
		e.signal(filepath.Base(program), "KILL")
		_ = log.Close()
	}
	netnstest.Eventually(e.t, 10*time.Second, func() error {
		out, err := e.Try("ss", "-Hltn", "sport = :"+port)
		if err == nil && strings.TrimSpace(out) == "" {
			err = &notYet{name + " server", out}
		}
		return err
	})
}

// signal sends a signal to every process of a program on the host, sshd-session
// of sshd included. The names of namespaces are not to be seen on the host.
func (e *ExitHost) signal(program, sig string) {
	e.t.Helper()
	out, err := exec.Command("sh", "-ec", `for p in $(ip netns pids "$1"); do
	case $(cat /proc/$p/comm 2>/dev/null) in "$2"*) kill -"$3" $p || true ;; esac
done`, "signal", e.ns.Name, program, sig).CombinedOutput()
	if err != nil {
		e.t.Fatalf("signalling %s on %s: %v\n%s", program, e.Name, err, out)
	}
}

// Freeze stops every server without a word, and lets them go on when the
// returned function is called: connections stay, nothing answers.
func (e *ExitHost) Freeze() (thaw func()) {
	e.t.Helper()
	programs := []string{"sshd", "danted", "tinyproxy", "wireguard-go"}
	for _, p := range programs {
		e.signal(p, "STOP")
	}
	return func() {
		for _, p := range programs {
			e.signal(p, "CONT")
		}
	}
}
