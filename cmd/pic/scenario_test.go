package main

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/certs"
	"github.com/personal-internet-cell/pic/dns"
	"github.com/personal-internet-cell/pic/exits"
	"github.com/personal-internet-cell/pic/firewall"
	"github.com/personal-internet-cell/pic/internal/scenario"
	"github.com/personal-internet-cell/pic/ntp"
	"github.com/personal-internet-cell/pic/proxy"
	"github.com/personal-internet-cell/pic/tunnel"
)

func compile[P fmt.Stringer](f func(*cell.State, cell.Facts) (P, error)) scenario.Compile {
	return func(s *cell.State, facts cell.Facts) (fmt.Stringer, error) { return f(s, facts) }
}

// Households and every plan they compile to, in the field's own notation. A
// change of any room that changes what goes into the world shows here.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.txtar")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			scenario.Run(t, f, map[string]scenario.Compile{
				"firewall": compile(firewall.Compile), "tunnel": compile(tunnel.Compile), "dns": compile(dns.Compile),
				"ntp": compile(ntp.Compile), "proxy": compile(proxy.Compile), "certs": compile(certs.Compile), "exits": compile(exits.Compile),
			})
		})
	}
}
