package firewall

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/personal-internet-cell/pic/cell"
)

const earlyTable = "pic_early"

// early is what holds from before the network is up until the cell's own rules
// are in place: nothing is forwarded, in either family. In scope full nothing
// comes in either, but what the machine itself began and what an interface
// needs to get an address.
func early(scope cell.Scope) Table {
	t := Table{Name: earlyTable, Chains: []Chain{
		{Name: "forward", Hook: &Hook{Type: "filter", At: "forward", Priority: -20, Drop: true}},
	}}
	if scope != cell.ScopeFull {
		return t
	}
	t.Sets = []Set{neighbourSet(), {Name: "link", Key: []Field{SAddr6}, Interval: true, Elements: []Element{
		{Key: []Value{addr(netip.MustParseAddr("fe80::"))}, Last: netip.MustParseAddr("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff")},
	}}}
	t.Chains = append(t.Chains, Chain{Name: "input", Hook: &Hook{Type: "filter", At: "input", Priority: -20, Drop: true}, Rules: []Rule{
		{Match: []Match{is(InIf, name("lo"))}, Do: accept, Comment: "early: the machine itself"},
		{Match: []Match{is(CTState, num(ctEstablished|ctRelated))}, Do: accept, Comment: "early: answers"},
		neighbours(),
		{Match: []Match{is(L4Proto, num(protoUDP)), is(SPort, num(67)), is(DPort, num(68))}, Do: accept, Comment: "early: dhcp"},
		{Match: []Match{in("link", SAddr6), is(L4Proto, num(protoUDP)), is(DPort, num(546))}, Do: accept, Comment: "early: dhcpv6"},
	}})
	return t
}

// EarlyText is the early table as `nft -f` reads it.
func EarlyText(scope cell.Scope) string {
	var b strings.Builder
	t := early(scope)
	t.text(&b, true)
	return b.String()
}

// EarlyBoot closes the machine until the first successful [Controller.Apply],
// which removes what it put there; Flush does too. Without a kernel that can
// filter it fails. It is meant to run once, before the network is up.
func EarlyBoot(ctx context.Context, scope cell.Scope) (changed bool, err error) {
	if err := mayAdminister(); err != nil {
		return false, err
	}
	t := early(scope)
	changed, err = applyTable(ctx, nil, &t, nil)
	if err != nil {
		return changed, fmt.Errorf("closing the machine before the cell is up: %w", explain(err))
	}
	return changed, nil
}

// endEarly removes the early table where it is; mu is held.
func (c *Controller) endEarly(ctx context.Context) (bool, error) {
	if c.earlyEnded {
		return false, nil
	}
	conn, err := dialNFT()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	_ = conn.CloseLasting()
	if err != nil {
		return false, fmt.Errorf("listing tables: %w", err)
	}
	there := slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == earlyTable })
	if there {
		if err := deleteTables(ctx, earlyTable); err != nil {
			return false, err
		}
	}
	c.earlyEnded = true
	return there, nil
}
