// Package tunnel lets the peers in: it makes the WireGuard device they join
// equal to what the state says, and writes the files their devices are set up
// with.
//
// It owns the links named in its plan (pic0), with their keys, peers, addresses
// and up-state, and nothing else on the machine.
//
// It must never replace the peers of a live link, never take over a link that
// another program made, and never take a kernel link down because this process
// ends: sessions outlive it.
package tunnel
