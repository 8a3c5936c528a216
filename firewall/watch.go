package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	// gather is the least time between two triggers. The first event of a burst
	// triggers at once: who is triggered gathers too, and two waits in a row
	// would double the time to a repair.
	gather       = 250 * time.Millisecond
	watchTimeout = 1 // seconds a socket waits before it looks at its context
	// sysctlPoll is how often the kernel parameters are read that have no event:
	// RTM_NEWNETCONF tells of forwarding and rp_filter only, and inotify(7) does
	// not see /proc.
	sysctlPoll = time.Second
)

// Watch returns a task that calls trigger when something of ours, or something
// the policy is made from (links, addresses, the default route), changed in the
// kernel: at once, then at most every 250 ms, with one more trigger for what
// came in between. How many of them become repairs is for the caller to limit.
// trigger runs on the task's own goroutine.
func (c *Controller) Watch(trigger func()) lifecycle.Task {
	return &watch{c: c, trigger: trigger, ready: make(chan struct{})}
}

type watch struct {
	c       *Controller
	trigger func()
	ready   chan struct{}
}

func (w *watch) String() string         { return "firewall watch" }
func (w *watch) Ready() <-chan struct{} { return w.ready }

// Run subscribes and forwards until ctx ends. Sockets are opened before Ready.
func (w *watch) Run(ctx context.Context) error {
	route, err := subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return fmt.Errorf("subscribing to rtnetlink: %w", explain(err))
	}
	defer route.Close()
	filter, err := subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return fmt.Errorf("subscribing to nftables: %w", explain(err))
	}
	defer filter.Close()
	close(w.ready)

	events := make(chan struct{}, 1)
	read := func(name string, s *nl.NetlinkSocket, ours func(uint16, []byte) bool) lifecycle.Task {
		return lifecycle.Guarded(w.c.log, lifecycle.Func(name, func(ctx context.Context) error {
			return receive(ctx, s, func(kind uint16, data []byte) bool {
				lifecycle.Fault(name)
				return ours(kind, data)
			}, events)
		}))
	}
	return lifecycle.Run(ctx,
		read("rtnetlink events", route, ourRouteEvent),
		read("nftables events", filter, ourTableEvent),
		lifecycle.Guarded(w.c.log, lifecycle.Func("kernel parameters", func(ctx context.Context) error { w.c.pollSysctls(ctx, events); return nil })),
		lifecycle.Guarded(w.c.log, lifecycle.Func("firewall trigger", func(ctx context.Context) error { w.pace(ctx, events); return nil })))
}

func subscribe(protocol int, groups ...uint) (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return nil, err
	}
	if err := s.SetReceiveTimeout(&unix.Timeval{Sec: watchTimeout}); err != nil {
		s.Close()
		return nil, err
	}
	_ = s.SetReceiveBufferSize(4<<20, true) // a smaller buffer only overflows earlier, which is an event too
	return s, nil
}

// receive turns messages into events until ctx ends.
func receive(ctx context.Context, s *nl.NetlinkSocket, ours func(uint16, []byte) bool, events chan<- struct{}) error {
	for ctx.Err() == nil {
		msgs, _, err := s.Receive()
		hit := false
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			hit = true // events were lost: look again
		case err != nil:
			return fmt.Errorf("receiving: %w", err)
		}
		for _, m := range msgs {
			hit = hit || ours(m.Header.Type, m.Data)
		}
		if hit {
			note(events)
		}
	}
	return nil
}

// note adds an event, unless one is waiting already.
func note(events chan<- struct{}) {
	select {
	case events <- struct{}{}:
	default:
	}
}

// pollSysctls compares the kernel parameters of the last policy that was
// applied with their values, until ctx ends.
func (c *Controller) pollSysctls(ctx context.Context, events chan<- struct{}) {
	for pause(ctx, sysctlPoll) == nil {
		lifecycle.Fault("kernel parameters")
		if want := c.sysctls.Load(); want != nil && slices.ContainsFunc(*want, Sysctl.drifted) {
			note(events)
		}
	}
}

// ourRouteEvent reports whether an rtnetlink message is about something the
// policy owns or is made from.
func ourRouteEvent(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return kind == unix.RTM_DELLINK || !wireless(data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		return true
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		_, attrs, err := parse(data)
		return err == nil && len(attrs[nl.FRA_PROTOCOL]) > 0 && attrs[nl.FRA_PROTOCOL][0] == routeProtocol
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		msg, attrs, err := parse(data)
		if err != nil || msg.Flags&unix.RTM_F_CLONED != 0 {
			return false
		}
		table := uint32(msg.Table)
		if t := attrs[unix.RTA_TABLE]; t != nil {
			table = u32(t)
		}
		ours := table == cell.TableCell || table >= 110 && table < 170
		return msg.Protocol == routeProtocol || ours || table == tableMain && msg.Dst_len == 0
	}
	return false
}

// wireless reports whether a link message tells of a scan and not of a change:
// those come many times a minute. A new name or MTU has ifi_change 0 as well.
func wireless(data []byte) bool {
	if len(data) < unix.SizeofIfInfomsg || u32(data[12:]) != 0 {
		return false
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	return err == nil && slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool { return a.Attr.Type == unix.IFLA_WIRELESS })
}

// ourTableEvent reports whether an nftables message names a table of ours, or
// the chains in which Docker drops what is forwarded and lets others say what
// is not to be dropped. The table's name is the first attribute of every kind
// of message but the generation's.
func ourTableEvent(kind uint16, data []byte) bool {
	const header = 4 // struct nfgenmsg
	if kind&0xff == unix.NFT_MSG_NEWGEN || len(data) < header {
		return false
	}
	list, err := nl.ParseRouteAttr(data[header:])
	if err != nil {
		return false
	}
	attrs := make(map[uint16]string, len(list))
	for _, a := range list {
		attrs[a.Attr.Type&^unix.NLA_F_NESTED] = strings.TrimRight(string(a.Value), "\x00")
	}
	chain := ""
	switch kind & 0xff {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain = attrs[unix.NFTA_CHAIN_NAME]
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain = attrs[unix.NFTA_RULE_CHAIN]
	}
	switch attrs[1] {
	case "pic", "pic_guard", "pic_acct":
		return true
	case filterTable:
		return chain == dockerUser || chain == filterForward
	}
	return false
}

// pace calls trigger for every event, at most every 250 ms.
func (w *watch) pace(ctx context.Context, events <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
		}
		w.trigger()
		if pause(ctx, gather) != nil {
			return
		}
	}
}
