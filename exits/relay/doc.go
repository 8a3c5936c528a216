// Package relay lets traffic that was never addressed to the cell leave through
// a dialer: a transparent relay for what the firewall sends it (TCP, UDP), and
// a SOCKS5 server for programs that ask.
//
// It owns its listeners, and every connection and flow that came in by them.
//
// It must never connect on its own when the dialer fails, never look up a name,
// never serve what was addressed to the relay itself, and never hold more than
// its limits allow, whatever clients and servers do.
package relay
