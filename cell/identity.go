package cell

import "strings"

// DomainMode says where the cell's name comes from.
type DomainMode string

const (
	ModePicNgo     DomainMode = "pic_ngo"    // <name>.pic.ngo
	ModeCloudflare DomainMode = "cloudflare" // own zone
	ModeDuckDNS    DomainMode = "duckdns"    // <name>.duckdns.org
	ModeHTTP01     DomainMode = "http01"     // own name, certificates by HTTP-01
	ModeLAN        DomainMode = "lan"        // <name>.internal, internal authority
	ModeOwn        DomainMode = "own"        // a name taken as it is
)

// Identity is the cell's name and place.
type Identity struct {
	// Name is a hostname label (RFC 1123 §2.1), 1 to 63 bytes, lower case. Empty before setup.
	Name string `json:"name"`
	// Mode is empty before setup.
	Mode DomainMode `json:"domain_mode"`
	// Domain is the zone apex in the modes that take a name of one's own
	// (cloudflare, http01, own); empty otherwise, see [Identity.EffectiveDomain].
	Domain string `json:"domain"`
	// Timezone is an IANA name; empty means UTC.
	Timezone string `json:"timezone"`
	// Language is a BCP 47 tag for the UI; empty means the browser's.
	Language string `json:"language"`
}

// EffectiveDomain returns the zone apex the cell is authoritative for, without
// a trailing dot. An unclaimed cell answers to "cell.internal".
func (i Identity) EffectiveDomain() string {
	name := i.Name
	if name == "" {
		name = "cell"
	}
	switch i.Mode {
	case ModePicNgo:
		return name + ".pic.ngo"
	case ModeDuckDNS:
		return name + ".duckdns.org"
	case ModeCloudflare, ModeHTTP01, ModeOwn:
		return strings.TrimSuffix(strings.ToLower(i.Domain), ".")
	default:
		return name + ".internal"
	}
}

// InternalDomain returns the name that works in every mode without the
// internet: <name>.internal.
func (i Identity) InternalDomain() string {
	if i.Name == "" {
		return "cell.internal"
	}
	return i.Name + ".internal"
}

// Domains returns the effective domain and, where different, the internal one.
func (i Identity) Domains() []string {
	d, in := i.EffectiveDomain(), i.InternalDomain()
	if d == in {
		return []string{d}
	}
	return []string{d, in}
}

// validate checks a claimed or unclaimed identity.
func (i Identity) validate(v *validation) {
	if i.Name == "" && i.Mode == "" && i.Domain == "" {
		v.timezone("timezone", i.Timezone)
		return // before setup
	}
	v.label("name", i.Name)
	switch i.Mode {
	case ModePicNgo, ModeDuckDNS, ModeLAN:
		if i.Domain != "" {
			v.add("domain", "mode %s derives the domain from the name: leave domain empty", i.Mode)
		}
	case ModeCloudflare, ModeHTTP01, ModeOwn:
		v.domain("domain", i.Domain)
	default:
		v.add("domain_mode", "%q is no domain mode: use pic_ngo, cloudflare, duckdns, http01, lan or own", i.Mode)
	}
	v.timezone("timezone", i.Timezone)
	if len(i.Language) > 35 {
		v.add("language", "a language tag has at most 35 characters")
	}
}
