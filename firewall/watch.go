package firewall

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	debounce     = 250 * time.Millisecond
	maxTriggers  = 10
	triggerSpan  = 5 * time.Second
	watchTimeout = 1 // seconds a socket waits before it looks at its context
)

// Watch returns a task that calls trigger when something of ours, or something
// the policy is made from (links, addresses, the default route), changed in the
// kernel. Changes within 250 ms are one; more than 10 triggers in 5 s mean that
// another program fights with us, which becomes a notice and makes trigger wait
// until there is room again. trigger runs on the task's own goroutine.
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
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
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
		return lifecycle.Func(name, func(ctx context.Context) error {
			return lifecycle.Guard(ctx, w.c.log, name, nil, func(ctx context.Context) error { return receive(ctx, s, ours, events) })
		})
	}
	return lifecycle.Run(ctx,
		read("rtnetlink events", route, ourRouteEvent),
		read("nftables events", filter, ourTableEvent),
		lifecycle.Func("firewall trigger", func(ctx context.Context) error { w.pace(ctx, events); return nil }))
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
			select {
			case events <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
	return nil
}

// ourRouteEvent reports whether an rtnetlink message is about something the
// policy owns or is made from.
func ourRouteEvent(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// ifi_change 0: statistics or a wireless event, nothing that routes.
		return kind == unix.RTM_DELLINK || len(data) >= unix.SizeofIfInfomsg && u32(data[12:]) != 0
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
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

// ourTableEvent reports whether an nftables message names a table of ours: its
// name is the first attribute of every kind of message but the generation's.
func ourTableEvent(kind uint16, data []byte) bool {
	const header = 4 // struct nfgenmsg
	if kind&0xff == unix.NFT_MSG_NEWGEN || len(data) < header {
		return false
	}
	attrs, err := nl.ParseRouteAttr(data[header:])
	if err != nil {
		return false
	}
	for _, a := range attrs {
		if a.Attr.Type&^unix.NLA_F_NESTED != 1 {
			continue
		}
		switch strings.TrimRight(string(a.Value), "\x00") {
		case "pic", "pic_guard", "pic_acct":
			return true
		}
	}
	return false
}

// pace gathers events for 250 ms and calls trigger, at most 10 times in 5 s.
func (w *watch) pace(ctx context.Context, events <-chan struct{}) {
	var times []time.Time
	quiet := time.NewTicker(triggerSpan)
	defer quiet.Stop()
	contested := cell.Notice{Code: "firewall_contested", Subject: "nftables", Severity: cell.Alarm,
		Text: "Another program keeps changing the cell's firewall rules or routes; they are put back, at most 10 times in 5 seconds. Find it with `nft monitor` and `ip monitor` and stop it."}
	for {
		select {
		case <-ctx.Done():
			return
		case <-quiet.C:
			if n := len(times); n > 0 && time.Since(times[n-1]) >= triggerSpan {
				w.c.notices.set(contested, false)
			}
			continue
		case <-events:
		}
		if pause(ctx, debounce) != nil {
			return
		}
		select { // what came meanwhile is in this trigger
		case <-events:
		default:
		}
		now := time.Now()
		for len(times) > 0 && now.Sub(times[0]) >= triggerSpan {
			times = times[1:]
		}
		busy := len(times) >= maxTriggers
		w.c.notices.set(contested, busy)
		if busy && pause(ctx, times[0].Add(triggerSpan).Sub(now)) != nil {
			return
		}
		times = append(times, time.Now())
		w.trigger()
	}
}
