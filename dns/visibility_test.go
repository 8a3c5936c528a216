package dns_test

import (
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
)

// A name that everybody sees for one record hides the others from those who
// may not see them, however often the allowed ask.
func TestOneNameHoldsHiddenRecords(t *testing.T) {
	s := inMemory(t, func(st *cell.State) {
		st.DNS.Records = append(st.DNS.Records, cell.Record{Name: "files", Type: "TXT", Value: `"open"`})
		st.Normalize()
	})
	for range 3 {
		want(t, ask(t, s, question("files.home.pic.ngo.", mdns.TypeA), "pic0", laptop, false), 0, 1)
		want(t, ask(t, s, question("files.home.pic.ngo.", mdns.TypeA), "pic0", phone, false), 0, 0)
		want(t, ask(t, s, question("files.home.pic.ngo.", mdns.TypeTXT), "pic0", phone, false), 0, 1)
	}
	if s.Status().Quick != 9 {
		t.Errorf("%d of 9 answers in wire form", s.Status().Quick)
	}
}
