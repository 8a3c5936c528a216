package api

import (
	"context"
	"net/http"
	"net/netip"
	"slices"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

func (a *API) networkRoutes() {
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/dns/status", "dns-status", "network", "The name server")},
		func(context.Context, *struct{}) (*Out[DNSFull], error) {
			c, _ := a.condition("dns")
			return ok(DNSFull{a.cfg.DNS(), c})
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/dns/overview", "dns-overview", "network", "Names the cell answers, by audience")}, a.dnsOverview)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/dns/records", "list-records", "network", "The records you added")},
		func(context.Context, *struct{}) (*Out[List[cell.Record]], error) {
			s, _ := a.cfg.Engine.Running()
			return ok(list(s.DNS.Records))
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/dns/records", "add-record", "network", "Add a record to the cell's zone")}, a.addRecord)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("DELETE", "/api/dns/records", "remove-record", "network", "Remove records by name, and type and value when given")}, a.removeRecord)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/dns/reload", "dns-reload", "network", "Compare the name server with its plan again")},
		func(ctx context.Context, in *struct{ Body Empty }) (*Out[SubsystemStatus], error) {
			return a.subsystemRestart(ctx, &restartIn{Subsystem: "dns"})
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/ntp/status", "ntp-status", "network", "The NTP server and the clock")},
		func(context.Context, *struct{}) (*Out[ClockStatus], error) { return ok(a.cfg.Clock()) })
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/network/test", "network-test", "network", "Test the uplink")},
		func(ctx context.Context, _ *struct{ Body Empty }) (*Out[List[Check]], error) {
			return ok(list(a.cfg.NetworkTest(ctx)))
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/network/interfaces", "list-interfaces", "network", "The machine's interfaces, as learned")}, a.interfaces)
}

// DNSFull is the name server's status with its condition.
type DNSFull struct {
	DNSStatus
	Condition cell.Condition `json:"condition"`
}

// DNSOverview is what /network shows.
type DNSOverview struct {
	Domain            string          `json:"domain"`
	DomainMode        cell.DomainMode `json:"domain_mode"`
	ModeLabel         string          `json:"mode_label"`
	InternalRecords   []DNSRecord     `json:"internal_records" nullable:"false"`
	PublicRecords     []DNSRecord     `json:"public_records" nullable:"false"`
	ServiceSubdomains []string        `json:"service_subdomains" nullable:"false"`
	Actions           []string        `json:"actions" nullable:"false"`
}

var modeLabels = map[cell.DomainMode]string{
	cell.ModePicNgo: "pic.ngo", cell.ModeCloudflare: "Cloudflare", cell.ModeDuckDNS: "DuckDNS",
	cell.ModeHTTP01: "own name, HTTP-01", cell.ModeLAN: "local network only", cell.ModeOwn: "own name",
}

func (a *API) dnsOverview(context.Context, *struct{}) (*Out[DNSOverview], error) {
	s, _ := a.cfg.Engine.Running()
	records, err := a.cfg.DNSRecords(s, a.cfg.Engine.Facts())
	if err != nil {
		return nil, err
	}
	o := DNSOverview{
		Domain: s.Identity.EffectiveDomain(), DomainMode: s.Identity.Mode, ModeLabel: modeLabels[s.Identity.Mode],
		InternalRecords: []DNSRecord{}, PublicRecords: []DNSRecord{}, ServiceSubdomains: []string{}, Actions: []string{"reload"},
	}
	for _, r := range records {
		if r.View == cell.ViewInternet {
			o.PublicRecords = append(o.PublicRecords, r)
		} else {
			o.InternalRecords = append(o.InternalRecords, r)
		}
	}
	for i := range s.Services {
		if s.Services[i].Enabled {
			o.ServiceSubdomains = append(o.ServiceSubdomains, s.ServiceNames(&s.Services[i])[0])
		}
	}
	return ok(o)
}

type addRecordIn struct {
	Write
	Body struct {
		Name  string      `json:"name" maxLength:"200"`
		Type  string      `json:"type" enum:"A,AAAA,CNAME,TXT,MX,SRV,CAA"`
		Value string      `json:"value" maxLength:"1024"`
		TTL   uint32      `json:"ttl,omitempty" maximum:"604800"`
		Views []cell.View `json:"views,omitempty" maxItems:"3"`
	}
}

func (a *API) addRecord(ctx context.Context, in *addRecordIn) (*Out[cell.Record], error) {
	b := in.Body
	rec := cell.Record{Name: b.Name, Type: b.Type, Value: b.Value, TTL: b.TTL, Views: b.Views}
	if rec.Views == nil {
		rec.Views = []cell.View{}
	}
	r, err := a.commit(ctx, in.Write, change{
		resource: "dns", message: "add record " + rec.Name + " " + rec.Type,
		edit: func(s *cell.State) error {
			for _, x := range s.DNS.Records {
				if x.Name == rec.Name && x.Type == rec.Type && x.Value == rec.Value && slices.Equal(x.Views, rec.Views) {
					return problem(http.StatusConflict, "conflict", "this record is already there")
				}
			}
			s.DNS.Records = append(s.DNS.Records, rec)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return answer(a, r, "dns", http.StatusCreated, rec), nil
}

type removeRecordIn struct {
	Write
	Name  string `query:"name" required:"true" maxLength:"200"`
	Type  string `query:"type" maxLength:"10"`
	Value string `query:"value" maxLength:"1024"`
}

func (a *API) removeRecord(ctx context.Context, in *removeRecordIn) (*NoContent, error) {
	r, err := a.commit(ctx, in.Write, change{
		resource: "dns", message: "remove record " + in.Name,
		edit: func(s *cell.State) error {
			keep := slices.DeleteFunc(slices.Clone(s.DNS.Records), func(x cell.Record) bool {
				return x.Name == in.Name && (in.Type == "" || x.Type == in.Type) && (in.Value == "" || x.Value == in.Value)
			})
			if len(keep) == len(s.DNS.Records) {
				return notFound("record", in.Name)
			}
			s.DNS.Records = keep
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return noContent(r), nil
}

// Interface is a network interface as learned.
type Interface struct {
	Name      string         `json:"name"`
	Up        bool           `json:"up"`
	Addresses []netip.Prefix `json:"addresses" nullable:"false"`
	Uplink    bool           `json:"uplink"`
}

func (a *API) interfaces(context.Context, *struct{}) (*Out[List[Interface]], error) {
	f := a.cfg.Engine.Facts()
	var out []Interface
	for name, l := range f.Links {
		addrs := l.Addresses
		if addrs == nil {
			addrs = []netip.Prefix{}
		}
		out = append(out, Interface{name, l.Up, addrs, name == f.Uplink.Name})
	}
	slices.SortFunc(out, func(x, y Interface) int {
		if x.Name < y.Name {
			return -1
		}
		return 1
	})
	return ok(list(out))
}
