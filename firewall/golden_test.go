package firewall_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/firewall"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs (-want +got; go test -update writes it anew):\n%s", file, d)
	}
}

func TestPoliciesInTheirOwnNotation(t *testing.T) {
	learned := facts(cell.ScopeFull)
	learned.Host = cell.Host{Scope: cell.ScopeFull, HTTPPort: 80, HTTPSPort: 443, DNSPort: 53, NTPPort: 123}
	unclaimed := cell.Factory([16]byte{1, 2, 3, 4, 5, 6}, "tunnel", key(1))
	for _, c := range []struct {
		file  string
		state *cell.State
		facts cell.Facts
	}{
		{"unclaimed.txt", unclaimed, learned},
		{"empty.txt", empty(), learned},
		{"household.txt", household(), facts(cell.ScopeFull)},
		{"household_tunnel.txt", household(), facts(cell.ScopeTunnel)},
	} {
		t.Run(c.file, func(t *testing.T) {
			p, err := firewall.Compile(c.state, c.facts)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", c.file), p.String())
		})
	}
}

func TestPacketTableDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Packet table

Who may go where, and how. The rows are data in ` + "`firewall/packets.go`" + `: the filter chains are
compiled from them in this order (the first row that matches decides), and Trace names the row.
This file is rendered from them by ` + "`go test ./firewall -run PacketTable -update`" + `.

Each row holds for IPv4 and IPv6. Answers of a connection that was let in pass before any row, except
where the mark has no way. A packet from a peer or service carries the mark of its exit, 0x02 when
that is "direct"; one whose source is unknown is dropped before any row. Rows marked "full" exist
only where the whole box belongs to the cell (` + "`--scope full`" + `), where input from an interface that
is neither ours nor a configured LAN counts as the uplink's; with ` + "`--scope tunnel`" + ` the machine's
own input is left alone. The tables are looked up in this order: local, 100 (prefixes of ours),
the exit's, and main for packets marked direct only. An exit that is down answers "no route to host".

`)
	var last firewall.Ingress
	for _, r := range firewall.PacketTable() {
		if r.From != last {
			last = r.From
			fmt.Fprintf(&b, "\n## From %s\n\n| row | to | packets | mark | table | NAT | verdict | counter | scope |\n|---|---|---|---|---|---|---|---|---|\n", last)
		}
		scope := "both"
		if r.Full {
			scope = "full"
		}
		verdict := r.Do.String()
		switch r.Do.Kind {
		case firewall.Verdict:
			verdict = "by grant"
		case firewall.Continue:
			verdict = "accept"
		}
		dash := func(s string) string {
			if s == "" {
				return "–"
			}
			return s
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", r.ID, r.To, r.What,
			dash(r.Mark), dash(r.Table), dash(r.NAT), verdict, dash(r.Counter), scope)
	}
	golden(t, "../docs/packet-table.md", b.String())
}

// Every row of the table must be in a policy, or it is a promise without a rule.
func TestEveryRowHasARule(t *testing.T) {
	p, err := firewall.Compile(household(), facts(cell.ScopeFull))
	if err != nil {
		t.Fatal(err)
	}
	text := p.String()
	for _, r := range firewall.PacketTable() {
		if r.Do.Kind != firewall.Continue && !strings.Contains(text, fmt.Sprintf("comment %q", r.ID)) {
			t.Errorf("the row %q has no rule", r.ID)
		}
	}
}
