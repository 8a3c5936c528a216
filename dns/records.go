package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	mdns "github.com/miekg/dns"

	"github.com/personal-internet-cell/pic/cell"
)

// checkRecords turns the admin's records into resource records of the
// effective domain and refuses all that can't be served, each by its pointer.
func (c *compiler) checkRecords() error {
	var bad []cell.FieldError
	refuse := func(i int, field, format string, a ...any) {
		bad = append(bad, cell.FieldError{Pointer: fmt.Sprintf("/dns/records/%d/%s", i, field), Message: fmt.Sprintf(format, a...)})
	}
	apex := c.domains[0]
	type key struct{ view, name string }
	alias, other := map[key]int{}, map[key]int{}
	for i, r := range c.s.DNS.Records {
		rec, err := CompileRecord(r, apex)
		if err != nil {
			refuse(i, "value", "%v", err)
			c.records = append(c.records, Record{})
			continue
		}
		c.records = append(c.records, rec)
		if (r.Type == "A" || r.Type == "AAAA" || r.Type == "CNAME") && c.ownName(strings.TrimSuffix(rec.Name, "."+apex), rec.Name == apex) {
			refuse(i, "name", "%s is a name of the cell, of a service or of a peer: its address can't be changed by a record", strings.TrimSuffix(rec.Name, "."))
			continue
		}
		// RFC 1034 §3.6.2: an alias has no other data.
		for _, v := range []cell.View{cell.ViewPeer, cell.ViewLAN, cell.ViewInternet} {
			if !seenBy(r.Views, v) {
				continue
			}
			k := key{string(v), rec.Name}
			j, taken := alias[k]
			if r.Type == "CNAME" {
				if !taken {
					j, taken = other[k]
				}
				alias[k] = i
			} else {
				other[k] = i
			}
			if taken {
				refuse(i, "name", "a CNAME allows no other record of its name: see /dns/records/%d", j)
				break
			}
		}
	}
	if bad != nil {
		return &cell.InvalidError{Fields: bad}
	}
	return nil
}

// ownName reports whether addresses of the name are the cell's to give.
func (c *compiler) ownName(rel string, isApex bool) bool {
	return isApex || rel == "api" || rel == "pic" || rel == cell.PeersLabel || strings.HasSuffix(rel, "."+cell.PeersLabel) ||
		slices.ContainsFunc(c.s.Services, func(s cell.Service) bool { return s.Subdomain == rel })
}

// CompileRecord puts one record of the admin's into canonical form. apex ends
// with a dot; names in the value that don't are relative to it.
func CompileRecord(r cell.Record, apex string) (Record, error) {
	name := strings.ToLower(r.Name) + "." + apex
	if r.Name == "@" {
		name = apex
	}
	ttl := r.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	zp := mdns.NewZoneParser(strings.NewReader(name+" "+strconv.Itoa(int(ttl))+" IN "+r.Type+" "+r.Value+"\n"), apex, "")
	rr, ok := zp.Next()
	if err := zp.Err(); err != nil {
		return Record{}, fmt.Errorf("%q is no value of type %s", r.Value, r.Type)
	}
	if !ok || strings.ContainsAny(r.Value, "\r\n") {
		return Record{}, fmt.Errorf("%q holds no record", r.Value)
	}
	if _, more := zp.Next(); more || mdns.TypeToString[rr.Header().Rrtype] != r.Type {
		return Record{}, fmt.Errorf("%q holds something else than one %s record", r.Value, r.Type)
	}
	// What can't be sent is no record either: names over 255 bytes, strings over 255 bytes.
	var wire [mdns.MaxMsgSize]byte
	if _, err := mdns.PackRR(rr, wire[:], 0, nil, false); err != nil {
		return Record{}, errors.New("the value is too long for a DNS record")
	}
	data := strings.TrimPrefix(rr.String(), rr.Header().String())
	if strings.TrimSpace(data) == "" {
		return Record{}, fmt.Errorf("%q holds no value of type %s", r.Value, r.Type)
	}
	return Record{Name: name, TTL: ttl, Type: r.Type, Data: data}, nil
}

// rr makes the record that is sent.
func (r *Record) rr() (mdns.RR, error) {
	h := mdns.RR_Header{Name: r.Name, Class: mdns.ClassINET, Ttl: r.TTL}
	switch r.Type { // the many, without the parser
	case "A", "AAAA":
		a, err := netip.ParseAddr(r.Data)
		if err != nil {
			return nil, fmt.Errorf("reading the address of %s: %w", r.Name, err)
		}
		if r.Type == "A" {
			h.Rrtype = mdns.TypeA
			return &mdns.A{Hdr: h, A: a.AsSlice()}, nil
		}
		h.Rrtype = mdns.TypeAAAA
		return &mdns.AAAA{Hdr: h, AAAA: a.AsSlice()}, nil
	case "PTR":
		h.Rrtype = mdns.TypePTR
		return &mdns.PTR{Hdr: h, Ptr: r.Data}, nil
	}
	rr, err := mdns.NewRR(r.Name + " " + strconv.Itoa(int(r.TTL)) + " IN " + r.Type + " " + r.Data)
	if err != nil {
		return nil, fmt.Errorf("reading the record %s %s: %w", r.Name, r.Type, err)
	}
	if rr == nil {
		return nil, fmt.Errorf("reading the record %s %s: it is empty", r.Name, r.Type)
	}
	return rr, nil
}
