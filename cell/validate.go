package cell

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Limits of the lists, so that no document grows without bound.
const (
	MaxPeers    = 20000
	MaxServices = 500
	MaxUsers    = 1000
	MaxLinks    = 200
	MaxRecords  = 10000
)

// Key is a WireGuard public key: 32 bytes in base64, 44 characters.
type Key string

var strictBase64 = base64.StdEncoding.Strict()

// Valid reports whether k decodes to 32 bytes that are not all zero.
func (k Key) Valid() bool {
	// The length first: the decoder skips line ends. Strictly: the two bits that
	// are left over must be zero, so that a key has one spelling.
	var b [33]byte
	if len(k) != base64.StdEncoding.EncodedLen(32) {
		return false
	}
	n, err := strictBase64.Decode(b[:], []byte(k))
	return err == nil && n == 32 && b != [33]byte{}
}

// FieldError is one thing wrong with a document. Pointer is a JSON pointer
// (RFC 6901) into the state; Message says what to write instead.
type FieldError struct {
	Pointer string `json:"pointer"`
	Message string `json:"message"`
}

// InvalidError lists everything wrong with a state at once.
type InvalidError struct{ Fields []FieldError }

func (e *InvalidError) Error() string {
	var b strings.Builder
	for i, f := range e.Fields {
		if i == 5 {
			fmt.Fprintf(&b, "; and %d more", len(e.Fields)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Pointer + ": " + f.Message)
	}
	return b.String()
}

// Validate checks s whole and returns nil or an [*InvalidError] with every
// problem. It is pure: equal states give equal errors.
func (s *State) Validate() error {
	v := &validation{}
	if s.Schema != Schema {
		v.addAt("/schema", "this program reads schema %d, not %d", Schema, s.Schema)
	}
	v.in("identity", func() { s.Identity.validate(v) })
	v.in("network", func() { s.Network.validate(v, s) })
	v.in("dns", func() { s.DNS.validate(v) })
	v.in("clock", func() { s.Clock.validate(v) })
	v.in("tls", func() { s.TLS.validate(v) })
	v.in("ddns", func() { s.DDNS.validate(v) })
	v.max("users", len(s.Users), MaxUsers)
	v.max("peers", len(s.Peers), MaxPeers)
	v.max("links", len(s.Links), MaxLinks)
	v.max("services", len(s.Services), MaxServices)
	v.max("dns/records", len(s.DNS.Records), MaxRecords)
	s.validateUsers(v)
	s.validatePeers(v)
	s.validateRest(v)
	if s.Claimed() && s.Identity.Name == "" {
		v.addAt("/identity/name", "a claimed cell needs a name")
	}
	if len(v.errs) == 0 {
		return nil
	}
	sort.SliceStable(v.errs, func(i, j int) bool { return v.errs[i].Pointer < v.errs[j].Pointer })
	return &InvalidError{v.errs}
}

func (s *State) validateUsers(v *validation) {
	names := v.unique("name")
	for i := range s.Users {
		v.in("users/"+strconv.Itoa(i), func() {
			names.user(s.Users[i].Name)
			s.Users[i].validate(v)
		})
	}
}

func (s *State) validatePeers(v *validation) {
	names := names{newUnique[string](v, "name", len(s.Peers))}
	keys := newUnique[string](v, "public_key", len(s.Peers)+len(s.Links))
	v4, v6 := newUnique[netip.Addr](v, "address4", len(s.Peers)), newUnique[netip.Addr](v, "address6", len(s.Peers))
	for i := range s.Peers { // thousands: no closures and no strings but for an error
		p := &s.Peers[i]
		v.list, v.index = "peers", i
		names.label(p.Name)
		keys.seen(string(p.PublicKey))
		v4.seen(p.Address4)
		v6.seen(p.Address6)
	}
	for i := range s.Peers {
		v.list, v.index = "peers", i
		s.Peers[i].validate(v, s, names)
	}
	v.list = ""
	for i := range s.Links {
		v.in("links/"+strconv.Itoa(i), func() { keys.seen(string(s.Links[i].PublicKey)) })
	}
}

func (s *State) validateRest(v *validation) {
	links := v.unique("name")
	for i := range s.Links {
		v.in("links/"+strconv.Itoa(i), func() { links.label(s.Links[i].Name); s.Links[i].validate(v) })
	}
	ids, slots := v.unique("id"), v.unique("slot")
	for i := range s.Exits {
		e := &s.Exits[i]
		v.in("exits/"+strconv.Itoa(i), func() {
			ids.label(e.ID)
			slots.seen(string(e.Type) + " " + strconv.Itoa(e.Slot))
			e.validate(v, s)
		})
	}
	v.max("chains", len(s.Chains), MaxChains)
	for i := range s.Chains {
		v.in("chains/"+strconv.Itoa(i), func() { ids.label(s.Chains[i].ID); s.Chains[i].validate(v, s) })
	}
	svc, sub, bridges := v.unique("id"), v.unique("subdomain"), v.unique("bridge")
	for i := range s.Services {
		x := &s.Services[i]
		v.in("services/"+strconv.Itoa(i), func() {
			svc.label(x.ID)
			sub.seen(x.Subdomain)
			if x.Bridge != "" {
				bridges.seen(x.Bridge)
			}
			x.validate(v, s)
		})
	}
}

// validation collects errors under the pointer it is in.
type validation struct {
	place
	errs []FieldError
}

// place is a JSON pointer: path, and below it an element of a list unless list
// is empty.
type place struct {
	path, list string
	index      int
}

func (p place) String() string {
	if p.list == "" {
		return p.path
	}
	return p.path + "/" + p.list + "/" + strconv.Itoa(p.index)
}

func (v *validation) in(seg string, f func()) {
	old := v.place
	v.place = place{path: old.String() + "/" + seg}
	f()
	v.place = old
}

func (v *validation) add(field, format string, a ...any) {
	v.addAt(v.place.String()+"/"+field, format, a...)
}

func (v *validation) addAt(pointer, format string, a ...any) {
	if len(v.errs) < 200 {
		v.errs = append(v.errs, FieldError{pointer, fmt.Sprintf(format, a...)})
	}
}

func (v *validation) max(field string, n, limit int) {
	if n > limit {
		v.addAt("/"+field, "at most %d entries, not %d", limit, n)
	}
}

// LabelRule is the message for a name that is no hostname label.
const LabelRule = "must be a hostname label: 1 to 63 of a-z, 0-9 and -, not beginning or ending with -"

// ValidLabel reports whether s is a lower-case hostname label (RFC 1123 §2.1).
func ValidLabel(s string) bool {
	if len(s) < 1 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ValidDomain reports whether s is a lower-case domain name of at least two
// labels, without a trailing dot and of at most 253 bytes (RFC 1035 §2.3.4).
func ValidDomain(s string) bool {
	if len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	for l := range strings.SplitSeq(s, ".") {
		if !ValidLabel(l) {
			return false
		}
	}
	_, err := netip.ParseAddr(s)
	return err != nil
}

func (v *validation) label(field, s string) {
	if !ValidLabel(s) {
		v.add(field, "%q "+LabelRule, clip(s))
	}
}

func (v *validation) domain(field, s string) {
	if !ValidDomain(s) {
		v.add(field, "%q must be a domain name such as home.example.org", clip(s))
	}
}

// ownerName checks a record's name relative to the zone: "@", labels, a
// leading "*", and "_service" labels (RFC 8552).
func (v *validation) ownerName(field, s string) {
	if s == "@" {
		return
	}
	if s == "" || len(s) > 200 {
		v.add(field, "must be @ or a name relative to the domain")
		return
	}
	for i, l := range strings.Split(s, ".") {
		if i == 0 && l == "*" {
			continue
		}
		if !ValidLabel(strings.TrimPrefix(l, "_")) {
			v.add(field, "%q: each part %s", clip(s), LabelRule)
			return
		}
	}
}

func (v *validation) key(field string, k Key) {
	if !k.Valid() {
		v.add(field, "must be a WireGuard public key: 32 bytes in base64, 44 characters ending in =")
	}
}

// ifname checks an interface name: 1 to 15 bytes, no slash, no space (Linux, dev_valid_name).
func (v *validation) ifname(field, s string) {
	if len(s) < 1 || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n\v\f\r\x00\"*") {
		v.add(field, "%q is no interface name: 1 to 15 bytes without space, slash, colon, quote or *", clip(s))
	}
}

func (v *validation) endpoint(field, s string) {
	host, port := s, ""
	if ap, err := netip.ParseAddrPort(s); err == nil {
		host, port = ap.Addr().String(), strconv.Itoa(int(ap.Port()))
	} else if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.Count(s, ":") == 1 {
		host, port = s[:i], s[i+1:]
	}
	if port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			v.add(field, "%q: the port must be 1 to 65535", clip(s))
			return
		}
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil && !ValidDomain(strings.ToLower(host)) && !ValidLabel(strings.ToLower(host)) {
		v.add(field, "%q must be a host name or address, with :port if it is not the usual one", clip(s))
	}
}

func (v *validation) hostIn(field string, a netip.Addr, p netip.Prefix, gateway netip.Addr) {
	if !a.IsValid() || a.Zone() != "" || !p.Contains(a) || a == gateway || a == p.Masked().Addr() ||
		(a.Is4() && p.Bits() < 31 && !p.Contains(a.Next())) {
		v.add(field, "must be an address in %s, other than the network's, the cell's and the broadcast address", p)
	}
}

func (v *validation) exitRef(field, id string, s *State) {
	if id != "" && id != ExitDirect && id != ExitBlock && s.Exit(id) == nil && s.Chain(id) == nil {
		v.add(field, "there is no exit %q; \"direct\" is the uplink, \"block\" is nowhere", clip(id))
	}
}

func (v *validation) timezone(field, tz string) {
	if tz == "" {
		return
	}
	// The name's shape only: whether the zone is known depends on the
	// machine's database, and validity must not.
	for i := 0; i < len(tz); i++ {
		c := tz[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("/_+-", c) >= 0) {
			v.add(field, "%q must be an IANA time zone such as Europe/Berlin", clip(tz))
			return
		}
	}
	if len(tz) > 64 {
		v.add(field, "must be an IANA time zone such as Europe/Berlin")
	}
}

// unique refuses a value that an earlier element of the list holds.
type unique[K comparable] struct {
	v     *validation
	field string
	first map[K]place
}

func newUnique[K comparable](v *validation, field string, size int) unique[K] {
	return unique[K]{v, field, make(map[K]place, size)}
}

// names are unique strings.
type names struct{ unique[string] }

func (v *validation) unique(field string) names { return names{newUnique[string](v, field, 0)} }

func (u unique[K]) seen(k K) {
	if at, ok := u.first[k]; ok {
		u.v.add(u.field, "%q is already taken by %s", clip(fmt.Sprint(k)), at)
		return
	}
	u.first[k] = u.v.place
}

func (u unique[K]) has(k K) bool {
	_, ok := u.first[k]
	return ok
}

func (u names) label(s string) {
	u.v.label(u.field, s)
	u.seen(s)
}

// user names are labels that may also hold dots and underscores.
func (u names) user(s string) {
	if !ValidUserName(s) {
		u.v.add(u.field, "%q must be 1 to 64 of a-z, 0-9, dot, - and _, beginning with a letter", clip(s))
	}
	u.seen(s)
}

// ValidUserName reports whether s may name a user.
func ValidUserName(s string) bool {
	if len(s) < 1 || len(s) > 64 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// clip keeps an error short however long the offending value is.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// ValidTime reports whether t can be written as RFC 3339.
func ValidTime(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 9999 }
