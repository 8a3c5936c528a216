package scenario_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/scenario"
)

type plan string

func (p plan) String() string { return string(p) }

func archive(t *testing.T, expected string) string {
	t.Helper()
	s := cell.Factory([16]byte{1}, "tunnel-key", "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=")
	doc, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("A household.\n-- state.json --\n%s\n-- facts.json --\n{\"uplink\":{\"name\":\"eth0\"}}\n-- names --\n%s", doc, expected)
}

func compile(s *cell.State, f cell.Facts) (fmt.Stringer, error) {
	return plan(s.Identity.EffectiveDomain() + " behind " + f.Uplink.Name), nil
}

func TestRunComparesPlans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "one.txtar")
	if err := os.WriteFile(path, []byte(archive(t, "cell.internal behind eth0\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	scenario.Run(t, path, map[string]scenario.Compile{"names": compile})
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, data := range map[string]string{
		"no state":      "-- names --\nx\n",
		"unknown field": "-- state.json --\n{\"schema\":1,\"colour\":\"red\"}\n",
		"invalid":       "-- state.json --\n{\"schema\":1}\n",
		"twice":         archive(t, "x\n") + "-- names --\ny\n",
		"unknown fact":  strings.Replace(archive(t, ""), `"uplink"`, `"wan"`, 1),
	} {
		if _, err := scenario.Parse([]byte(data)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
