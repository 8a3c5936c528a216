// Package dns answers names for the peers and local networks of a cell, each
// audience with a view of its own, and forwards every other name to resolvers,
// for peers with an exit through that exit only.
//
// It owns the UDP and TCP sockets on port 53 of the tunnel gateway, of the
// service bridges, of the configured LAN addresses and, when the public zone is served, of the uplink,
// and the cache of forwarded answers.
//
// It must never show a record of one view to another audience, never send a
// name of ours or of a peer with an exit out of the uplink, never answer with
// more than 1,232 bytes over UDP, and never stop answering while zones change.
package dns
