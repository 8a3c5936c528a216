package exits

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// Dialer opens connections through an exit. Networks are "tcp" and "udp",
// addresses IP:port, or name:port where the server behind the exit resolves.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Upstream is the client of the server behind a dialed exit.
type Upstream interface {
	Dialer
	// Run keeps the connection to the server until ctx ends.
	Run(ctx context.Context) error
	// Check reports whether the server is there and lets us in. It returns a
	// [*Problem] where a person has to do something.
	Check(ctx context.Context) error
	// UDP reports whether the server carries UDP, as far as is known.
	UDP() bool
}

// Child is a supervised program.
type Child interface {
	Run(ctx context.Context) error
	Status() ChildStatus
}

// ChildStatus is how a supervised program is.
type ChildStatus struct {
	State    cell.ExitState
	Reason   string
	Restarts int
	// Address4 and Address6 are the addresses a server gave us.
	Address4, Address6 netip.Addr
	// DNS are resolvers that the server told us of, or that the program is.
	DNS     []netip.AddrPort
	Missing bool // a program or a file of one is not installed; Reason has the command that does
	Auth    bool // the server refused the credentials
}

// Relay is a dialed exit's transparent listener.
type Relay interface {
	Run(ctx context.Context) error
	// CloseFrom ends the connections of a source.
	CloseFrom(src netip.Addr)
	Traffic() Traffic
}

// Socks is an exit's SOCKS5 server.
type Socks interface {
	Run(ctx context.Context) error
	CloseFrom(src netip.Addr)
}

// Traffic is what a relay carried since it was made.
type Traffic struct {
	Connections int    // open now
	Received    uint64 // bytes from the exit
	Sent        uint64 // bytes to the exit
}

// DialFrom dials for a connection that a source opened to dst.
type DialFrom func(ctx context.Context, network string, dst netip.AddrPort, src netip.Addr) (net.Conn, error)

// Parts make what an exit consists of.
type Parts struct {
	// Upstream makes the client of an SSH server or proxy.
	Upstream func(*Exit, cell.Secret, *Around) (Upstream, error)
	// OpenVPN makes a supervised openvpn, which calls changed when its status
	// did, and asks keep at its end whether to leave the program running.
	OpenVPN func(e *Exit, password, profile cell.Secret, changed func(), keep func() bool) Child
	// Tor makes a supervised tor and the client of its SOCKS port.
	Tor func(e *Exit, changed func()) (Child, Upstream)
	// Sweep ends programs that an earlier process left running for other links
	// than those in keep; nil: there can be none.
	Sweep func(keep []string) error
	// Relay makes a transparent listener.
	Relay func(*Exit, DialFrom) Relay
	// Socks makes a SOCKS5 server.
	Socks func(e *Exit, allow func(netip.Addr) bool, dial func(ctx context.Context, network, address string) (net.Conn, error)) Socks
	// Routed makes the dialer of a routed exit: bound to its link, with its mark.
	Routed func(*Exit) Dialer
}

// Around is what an upstream needs to reach its server around the exits.
type Around struct {
	// Resolve looks a name up by the uplink.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Pinned is the host key that was seen first, "" when none was.
	Pinned string
	// Pin accepts a host key or returns a [*Problem].
	Pin func(key string) error
}

// PinStore keeps the host keys of SSH servers, outside of the state: they are
// learned.
type PinStore interface {
	// LoadPin returns the key of a server, "" when none was seen.
	LoadPin(server string) (string, error)
	SavePin(server, key string) error
}

// Problem is why an exit can't work before a person does something.
type Problem struct {
	// Code is one of the codes below; it names the notice.
	Code string
	Text string
	// HostKey is the changed key of [CodeHostKey].
	HostKey string
}

// Codes of problems and notices.
const (
	CodeAuth         = "exit_auth"
	CodeHostKey      = "exit_host_key"
	CodeMissing      = "exit_program_missing"
	CodeUnconfigured = "exit_not_configured"
	CodeBroken       = "exit_broken"
	CodeDown         = "exit_down"
	CodeSlots        = "exit_slots"
	CodeChain        = "chain_blocked"
)

func (p *Problem) Error() string { return p.Text }

// errWaiting is a check that came too early.
type errWaiting struct{ reason string }

func (e *errWaiting) Error() string { return e.reason }

var (
	errDown  = errors.New("the exit is down")
	errNoUDP = errors.New("the exit carries no UDP")
)

// maxWait is how long a program may take to connect before that counts as a
// failure.
const maxWait = 2 * time.Minute
