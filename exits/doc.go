// Package exits carries traffic out by ways other than the uplink: it runs the
// client, the relay or the supervised program behind each exit, checks whether
// each carries traffic, and leads chains of exits to the first that does.
//
// It owns the sockets of the relays and SOCKS5 servers, the connections to the
// servers behind the exits, the supervised programs, and the facts about exits
// and chains.
//
// It must never open a connection that is meant for an exit by the uplink,
// never lead a chain by the uplink unless the chain says so, and never report
// an exit as carrying traffic that it has not just seen carried.
package exits
