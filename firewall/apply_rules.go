package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Actions of a policy rule (linux/fib_rules.h). They travel in the header's
// type field, which the netlink library drops when it lists rules; a rule
// whose action somebody swapped must count as another one.
const (
	actLookup   = 1
	actProhibit = 8
)

// known are the attributes a rule of ours may carry. Anything else with our
// protocol number is not of our making.
var known = []uint16{
	nl.FRA_PRIORITY, nl.FRA_FWMARK, nl.FRA_FWMASK, nl.FRA_TABLE, nl.FRA_IIFNAME, nl.FRA_SRC,
	nl.FRA_PROTOCOL, nl.FRA_SUPPRESS_PREFIXLEN, nl.FRA_SUPPRESS_IFGROUP,
}

// kernelRule is a policy rule that carries our protocol number.
type kernelRule struct {
	rule RoutingRule
	odd  bool   // has something no rule of ours has
	raw  []byte // as listed
}

func (k kernelRule) is(r RoutingRule) bool { return !k.odd && k.rule == r }

// listRules returns the policy rules of ours, both families.
func listRules() ([]kernelRule, error) {
	var out []kernelRule
	for _, family := range kernelFamilies() {
		msgs, err := dump(unix.RTM_GETRULE, unix.RTM_NEWRULE, af(family))
		if err != nil {
			return nil, fmt.Errorf("listing policy rules: %w", err)
		}
		for _, m := range msgs {
			k, ours, err := parseRule(m, family)
			if err != nil {
				return nil, err
			}
			if ours {
				out = append(out, k)
			}
		}
	}
	return out, nil
}

func parseRule(b []byte, family uint8) (k kernelRule, ours bool, err error) {
	msg, attrs, err := parse(b)
	if err != nil {
		return kernelRule{}, false, err
	}
	if p := attrs[nl.FRA_PROTOCOL]; len(p) < 1 || p[0] != routeProtocol {
		return kernelRule{}, false, nil
	}
	r := RoutingRule{
		Family: family, Priority: u32(attrs[nl.FRA_PRIORITY]), Mark: u32(attrs[nl.FRA_FWMARK]),
		Mask: u32(attrs[nl.FRA_FWMASK]), InIf: strings.TrimRight(string(attrs[nl.FRA_IIFNAME]), "\x00"),
	}
	k = kernelRule{raw: b}
	switch msg.Type {
	case actLookup:
		r.Table = u32(attrs[nl.FRA_TABLE])
	case actProhibit:
		r.Action = Prohibit
	default:
		k.odd = true
	}
	if src := attrs[nl.FRA_SRC]; src != nil {
		a, ok := netip.AddrFromSlice(src)
		k.odd = k.odd || !ok || int(msg.Src_len) != a.BitLen()
		r.From = a
	}
	for t := range attrs {
		k.odd = k.odd || !slices.Contains(known, t)
	}
	const invert = 2 // FIB_RULE_INVERT
	none := func(t uint16) bool { v := attrs[t]; return v == nil || u32(v) == 0xffffffff }
	k.odd = k.odd || msg.Flags&invert != 0 || msg.Tos != 0 || msg.Dst_len != 0 ||
		!none(nl.FRA_SUPPRESS_PREFIXLEN) || !none(nl.FRA_SUPPRESS_IFGROUP)
	k.rule = r
	return k, true, nil
}

// addRules adds the rules that are missing.
func addRules(seen *seen, want []RoutingRule) (changed bool, err error) {
	have, err := seen.listRules()
	if err != nil {
		return false, err
	}
	index := make(map[RoutingRule]bool, len(have))
	for _, k := range have {
		if !k.odd {
			index[k.rule] = true
		}
	}
	for _, r := range want {
		if index[r] {
			continue
		}
		seen.rulesChanged()
		switch err := r.add(); {
		case err == nil:
			changed = true
		case !errors.Is(err, unix.EEXIST):
			return changed, fmt.Errorf("adding %q: %w", r, err)
		}
	}
	return changed, nil
}

// removeRules removes the rules of ours that are not wanted.
func removeRules(seen *seen, want []RoutingRule) (changed bool, err error) {
	have, err := seen.listRules()
	if err != nil {
		return false, err
	}
	index := make(map[RoutingRule]bool, len(want))
	for _, r := range want {
		index[r] = true
	}
	for _, k := range have {
		if !k.odd && index[k.rule] {
			continue
		}
		seen.rulesChanged()
		switch err := k.remove(); {
		case err == nil:
			changed = true
		case !errors.Is(err, unix.ENOENT):
			return changed, fmt.Errorf("deleting %q: %w", k.rule, err)
		}
	}
	return changed, nil
}

func (r RoutingRule) add() error {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: af(r.Family), Protocol: 0, Type: actLookup}}
	attrs := []*nl.RtAttr{attr32(nl.FRA_PRIORITY, r.Priority), nl.NewRtAttr(nl.FRA_PROTOCOL, []byte{routeProtocol})}
	if r.Action == Prohibit {
		msg.Type = actProhibit
	} else {
		attrs = append(attrs, attr32(nl.FRA_TABLE, r.Table))
	}
	if r.From.IsValid() {
		msg.Src_len = uint8(r.From.BitLen())
		attrs = append(attrs, nl.NewRtAttr(nl.FRA_SRC, r.From.AsSlice()))
	}
	if r.InIf != "" {
		attrs = append(attrs, nl.NewRtAttr(nl.FRA_IIFNAME, nl.ZeroTerminated(r.InIf)))
	}
	if r.Mask != 0 {
		attrs = append(attrs, attr32(nl.FRA_FWMARK, r.Mark), attr32(nl.FRA_FWMASK, r.Mask))
	}
	return change(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, msg, attrs...)
}

// remove sends the rule back as it was listed: the kernel deletes the rule
// that has all of it, its action included.
func (k kernelRule) remove() error {
	msg := nl.DeserializeRtMsg(k.raw)
	attrs, err := nl.ParseRouteAttr(k.raw[unix.SizeofRtMsg:])
	if err != nil {
		return fmt.Errorf("parsing a rule: %w", err)
	}
	var out []*nl.RtAttr
	for _, a := range attrs {
		out = append(out, nl.NewRtAttr(int(a.Attr.Type), a.Value))
	}
	return change(unix.RTM_DELRULE, 0, msg, out...)
}
