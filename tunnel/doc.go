// Package tunnel lets the peers in and gives WireGuard exits their links: it
// makes those devices equal to what the state says, and writes the files that
// peers' devices are set up with.
//
// It owns the links pic0 and wg_ext0 to wg_ext9, with their keys, peers,
// addresses and up-state, and nothing else on the machine.
//
// It must never replace the peers of a live link, never take over a link that
// another program made, and never take a kernel link down because this process
// ends: sessions outlive it.
package tunnel
