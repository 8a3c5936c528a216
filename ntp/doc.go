// Package ntp tells the time to peers and local networks, and the truth about
// how far that time can be trusted.
//
// It owns the UDP sockets on port 123 of the tunnel gateway and of the
// configured LAN addresses; the host's clock it only reads.
//
// It must never claim to be synchronised when the kernel says it is not, never
// send more bytes than it was sent, never answer anything but a client's
// request, and never adjust the clock.
package ntp
