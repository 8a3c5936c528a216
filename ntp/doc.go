// Package ntp tells the time to peers and local networks, and the truth about
// how far that time can be trusted.
//
// It owns the UDP sockets on port 123 of the tunnel gateway and of the
// configured LAN addresses, and the host's clock where no other program steers
// it and sources are configured; elsewhere it only reads that.
//
// It must never claim to be synchronised when the kernel says it is not, never
// send more bytes than it was sent, never answer anything but a client's
// request, never step the clock without a majority of the sources, and never
// write to a clock that another program steers.
package ntp
