package tunnel

import (
	"fmt"
	"log/slog"
	"net/netip"
)

// Address gives a link that another program of the cell's opened exactly these
// addresses, beside link-local ones, and this MTU, and brings it up. It changes
// nothing when all is so already.
func Address(log *slog.Logger, link string, mtu int, addresses []netip.Prefix) error {
	return address(NewHost(log, false), link, mtu, addresses)
}

func address(k Kernel, link string, mtu int, addresses []netip.Prefix) error {
	l, err := k.Link(link)
	if err != nil {
		return fmt.Errorf("reading link %s: %w", link, err)
	}
	d := Device{Name: link, MTU: mtu, Addresses: addresses}
	if l.MTU != mtu {
		if err := k.SetMTU(link, mtu); err != nil {
			return fmt.Errorf("setting the MTU of %s to %d: %w", link, mtu, err)
		}
	}
	if !l.Up {
		if err := k.SetUp(link); err != nil {
			return fmt.Errorf("setting %s up: %w", link, err)
		}
	}
	_, err = setAddresses(k, &d)
	return err
}
