package proxy

import "net/netip"

// Decision is what becomes of a request, before anything is sent anywhere.
type Decision struct {
	// Status is 200 when it is handed on, else the HTTP status it ends with
	// (421: the host name is not answered to this source; 403: not granted).
	Status int
	// Service is the id of the service the host leads to, "" for the cell's own pages.
	Service string
	// Upstream is where the service's requests go.
	Upstream string
}

// Decider returns a function that says what a request over HTTPS for a host,
// from a source and to an address of the cell, comes to under these routes.
func (r Routes) Decider() func(host string, src, local netip.Addr) Decision {
	t := newTable(r, nil, func(*Route) *upstream { return nil })
	return func(host string, src, local netip.Addr) Decision { return t.decide(host, src, local) }
}

func (t *table) decide(host string, src, local netip.Addr) Decision {
	to, ok := parseHost(host)
	if !ok || !t.admits(src, local, false) {
		return Decision{Status: 421}
	}
	v, may := t.resolve(to, src, local)
	switch {
	case may == allowed && v != nil:
		return Decision{Status: 200, Service: v.ID, Upstream: v.Upstream}
	case may == allowed:
		return Decision{Status: 200}
	case may == forbidden:
		return Decision{Status: 403, Service: t.services[to.name].ID}
	}
	return Decision{Status: 421}
}
