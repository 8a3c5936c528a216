// Package child runs the two programs that exits need and Go has no equal of:
// openvpn and tor.
//
// It owns those processes, their sockets in the runtime directory, tor's data
// directory, and the addresses of the tun link that openvpn opens.
//
// It must never pass a program a configuration that lets it run others, read
// or write files of the cell, or route; and never lose track of a process: one
// that outlives the cell is found again by the next.
package child
