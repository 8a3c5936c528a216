package firewall

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// dump asks for every object of a family, again while the kernel says that
// they changed under its hands.
func dump(get, answer uint16, family uint8) ([][]byte, error) {
	for try := 1; ; try++ {
		req := nl.NewNetlinkRequest(int(get), unix.NLM_F_DUMP)
		msg := nl.NewRtMsg()
		*msg = nl.RtMsg{RtMsg: unix.RtMsg{Family: family}}
		req.AddData(msg)
		msgs, err := req.Execute(unix.NETLINK_ROUTE, answer)
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == 10 {
			return msgs, err
		}
	}
}

// change sends one request and waits for its acknowledgement.
func change(kind uint16, flags int, msg *nl.RtMsg, attrs ...*nl.RtAttr) error {
	req := nl.NewNetlinkRequest(int(kind), flags|unix.NLM_F_ACK)
	req.AddData(msg)
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// parse splits a message into its header and attributes.
func parse(b []byte) (*nl.RtMsg, map[uint16][]byte, error) {
	if len(b) < unix.SizeofRtMsg {
		return nil, nil, fmt.Errorf("a message of %d bytes is too short", len(b))
	}
	msg := nl.DeserializeRtMsg(b)
	list, err := nl.ParseRouteAttr(b[unix.SizeofRtMsg:])
	if err != nil {
		return nil, nil, fmt.Errorf("parsing a message: %w", err)
	}
	attrs := make(map[uint16][]byte, len(list))
	for _, a := range list {
		attrs[a.Attr.Type&^unix.NLA_F_NESTED] = a.Value
	}
	return msg, attrs, nil
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return nl.NativeEndian().Uint32(b)
}

func attr32(kind int, n uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(n)) }

// kernelFamilies are the families the kernel has.
func kernelFamilies() []uint8 {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return []uint8{4}
	}
	return []uint8{4, 6}
}

// af is the address family of a plan's family.
func af(family uint8) uint8 {
	if family == 6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
