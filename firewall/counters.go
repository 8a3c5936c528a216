package firewall

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// Counter is what left by an interface with a mark, since the accounting table
// was made; replacing the rules does not reset it.
type Counter struct {
	Mark      uint32 `json:"mark"`
	Interface string `json:"interface"`
	// Leak is an exit's mark on the uplink: it must stay at zero.
	Leak    bool   `json:"leak"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Counters reads the accounting table: for each mark what left by its own way,
// and for each exit's mark what left by the uplink. In order of mark; empty
// before the first Apply.
func (c *Controller) Counters() ([]Counter, error) {
	conn, err := dialNFT()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	out := []Counter{}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == "pic_acct" }) {
		return out, nil
	}
	for _, n := range []string{"forwarded", "leak"} {
		els, err := conn.GetSetElements(&nftables.Set{Table: kernelTable("pic_acct"), Name: n, Counter: true})
		if err != nil {
			return nil, fmt.Errorf("reading set %s: %w", n, err)
		}
		for _, e := range els {
			if len(e.Key) < 4 {
				continue
			}
			x := Counter{Mark: binary.NativeEndian.Uint32(e.Key), Interface: strings.TrimRight(string(e.Key[4:]), "\x00"), Leak: n == "leak"}
			if e.Counter != nil {
				x.Packets, x.Bytes = e.Counter.Packets, e.Counter.Bytes
			}
			out = append(out, x)
		}
	}
	slices.SortFunc(out, func(a, b Counter) int {
		return cmp.Or(cmp.Compare(a.Mark, b.Mark), strings.Compare(a.Interface, b.Interface))
	})
	return out, nil
}
