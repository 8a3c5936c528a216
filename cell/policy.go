package cell

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits of policy tests.
const (
	MaxPolicy         = 200
	maxAssertion      = 300 // bytes
	maxAssertionPorts = 32
)

// Assertion is a policy test: a sentence about who reaches what, which every
// revision has to keep true. [ParseAssertion] has the grammar.
type Assertion struct {
	Verb Verb
	From Endpoint
	// To is what From reaches or not; the zero value for other verbs.
	To Endpoint
	// Exit is what From leaves by: an exit's id, or direct.
	Exit string
	// Ports narrow To down; with [VerbOnly] they are all that is open.
	Ports []ServicePort
}

// Verb of an assertion.
type Verb string

const (
	VerbReaches Verb = "reaches"
	VerbCannot  Verb = "cannot reach"
	VerbLeaves  Verb = "leaves by"
	VerbOnly    Verb = "only"
)

// EndpointKind says what an [Endpoint] names.
type EndpointKind string

const (
	EndName     EndpointKind = "" // a peer or a service, whichever has that name
	EndPeer     EndpointKind = "peer"
	EndService  EndpointKind = "service"
	EndLAN      EndpointKind = "lan"
	EndInternet EndpointKind = "internet"
	EndCell     EndpointKind = "cell"
	EndAddress  EndpointKind = "address"
)

// Endpoint is one end of a flow, in the words of a person.
type Endpoint struct {
	Kind EndpointKind
	Name string     // of a peer, service or network
	Addr netip.Addr // of kind address
}

func (e Endpoint) String() string {
	switch e.Kind {
	case EndName:
		return e.Name
	case EndPeer, EndService, EndLAN:
		return string(e.Kind) + ":" + e.Name
	case EndAddress:
		return e.Addr.String()
	}
	return string(e.Kind)
}

// ParseEndpoint reads one end of a flow: internet, cell, an address without a
// zone, lan:NAME, peer:NAME, service:ID, or the bare name of a peer or service.
func ParseEndpoint(s string) (Endpoint, error) {
	switch s {
	case string(EndInternet), string(EndCell):
		return Endpoint{Kind: EndpointKind(s)}, nil
	}
	for _, k := range []EndpointKind{EndLAN, EndPeer, EndService} {
		if name, ok := strings.CutPrefix(s, string(k)+":"); ok && ValidLabel(name) {
			return Endpoint{Kind: k, Name: name}, nil
		}
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return Endpoint{Kind: EndAddress, Addr: a.Unmap()}, nil
	}
	if !ValidLabel(s) {
		return Endpoint{}, fmt.Errorf("%q is neither internet, cell, an address, lan:NAME, peer:NAME, service:ID, nor the name of a peer or service", clip(s))
	}
	return Endpoint{Name: s}, nil
}

// String is the sentence; parsing it again gives an equal assertion.
func (a Assertion) String() string {
	var b strings.Builder
	if a.Verb == VerbOnly {
		b.WriteString("from ")
	}
	b.WriteString(a.From.String() + " " + string(a.Verb))
	switch a.Verb {
	case VerbLeaves:
		b.WriteString(" " + a.Exit)
	case VerbReaches, VerbCannot:
		b.WriteString(" " + a.To.String())
	}
	for _, p := range a.Ports {
		fmt.Fprintf(&b, " %d/%s", p.Port, p.Protocol)
	}
	if a.Verb == VerbOnly && len(a.Ports) == 0 {
		b.WriteString(" nothing")
	}
	return b.String()
}

// ParseAssertion reads a policy test. Words are separated by single spaces:
//
//	SOURCE reaches TARGET [PORT/PROTOCOL …]
//	SOURCE cannot reach TARGET [PORT/PROTOCOL …]
//	SOURCE leaves by EXIT
//	from SOURCE only PORT/PROTOCOL … | from SOURCE only nothing
//
// Source and target are endpoints, see [ParseEndpoint]; PROTOCOL is tcp or
// udp. It does not look whether the names exist: [State.Validate] does.
func ParseAssertion(s string) (Assertion, error) {
	if len(s) > maxAssertion {
		return Assertion{}, fmt.Errorf("a policy test has at most %d bytes", maxAssertion)
	}
	w := strings.Split(s, " ")
	if slices.Contains(w, "") {
		return Assertion{}, fmt.Errorf("%q: separate the words by single spaces", clip(s))
	}
	var a Assertion
	var source string
	switch {
	case len(w) >= 4 && w[0] == "from" && w[2] == "only":
		a.Verb, source, w = VerbOnly, w[1], w[3:]
		if len(w) == 1 && w[0] == "nothing" {
			w = nil
		}
	case len(w) >= 3 && w[1] == "reaches":
		a.Verb, source, w = VerbReaches, w[0], w[2:]
	case len(w) >= 4 && w[1] == "cannot" && w[2] == "reach":
		a.Verb, source, w = VerbCannot, w[0], w[3:]
	case len(w) == 4 && w[1] == "leaves" && w[2] == "by":
		a.Verb, source, a.Exit, w = VerbLeaves, w[0], w[3], nil
		if !ValidLabel(a.Exit) {
			return Assertion{}, fmt.Errorf("%q is no exit's id; \"direct\" is the uplink", clip(a.Exit))
		}
	default:
		return Assertion{}, fmt.Errorf("%q is no policy test: write \"laptop reaches files\", \"laptop cannot reach files\", \"tv leaves by nl\" or \"from internet only 443/tcp 51820/udp\"", clip(s))
	}
	var err error
	if a.From, err = ParseEndpoint(source); err != nil {
		return Assertion{}, err
	}
	if a.Verb == VerbReaches || a.Verb == VerbCannot {
		if a.To, err = ParseEndpoint(w[0]); err != nil {
			return Assertion{}, err
		}
		w = w[1:]
	}
	a.Ports, err = parsePorts(w)
	return a, err
}

func parsePorts(words []string) ([]ServicePort, error) {
	if len(words) > maxAssertionPorts {
		return nil, fmt.Errorf("a policy test names at most %d ports", maxAssertionPorts)
	}
	var out []ServicePort
	for _, w := range words {
		port, proto, _ := strings.Cut(w, "/")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != port || (proto != string(TCP) && proto != string(UDP)) {
			return nil, fmt.Errorf("%q is no port: write 443/tcp or 51820/udp", clip(w))
		}
		p := ServicePort{Protocol: Protocol(proto), Port: uint16(n)}
		if slices.Contains(out, p) {
			return nil, fmt.Errorf("%s is there twice", w)
		}
		out = append(out, p)
	}
	return out, nil
}

// Resolve says what a bare name is in this state, and whether the endpoint
// exists.
func (s *State) Resolve(e Endpoint) (Endpoint, error) {
	switch e.Kind {
	case EndName:
		peer, service := s.Peer(e.Name) != nil, s.Service(e.Name) != nil
		switch {
		case peer && service:
			return e, fmt.Errorf("%q is both a peer and a service: write peer:%s or service:%s", e.Name, e.Name, e.Name)
		case peer:
			e.Kind = EndPeer
		case service:
			e.Kind = EndService
		default:
			return e, fmt.Errorf("there is no peer or service %q", e.Name)
		}
	case EndPeer:
		if s.Peer(e.Name) == nil {
			return e, fmt.Errorf("there is no peer %q", e.Name)
		}
	case EndService:
		if s.Service(e.Name) == nil {
			return e, fmt.Errorf("there is no service %q", e.Name)
		}
	case EndLAN:
		if !slices.ContainsFunc(s.Network.LAN, func(l LAN) bool { return l.Name == e.Name }) {
			return e, fmt.Errorf("there is no network %q in /network/lan", e.Name)
		}
	}
	return e, nil
}

// Assertions returns the policy tests with their ends resolved. A state that
// is valid has no error.
func (s *State) Assertions() ([]Assertion, error) {
	out := make([]Assertion, 0, len(s.Network.Policy))
	for i, text := range s.Network.Policy {
		a, err := s.assertion(text)
		if err != nil {
			return nil, fmt.Errorf("reading /network/policy/%d: %w", i, err)
		}
		out = append(out, a)
	}
	return out, nil
}

func (s *State) assertion(text string) (Assertion, error) {
	a, err := ParseAssertion(text)
	if err != nil {
		return a, err
	}
	if a.From, err = s.Resolve(a.From); err != nil {
		return a, err
	}
	switch a.Verb {
	case VerbReaches, VerbCannot:
		a.To, err = s.Resolve(a.To)
		if err == nil && a.To == a.From {
			err = fmt.Errorf("%s is on both sides", a.From)
		}
	case VerbLeaves:
		if a.From.Kind != EndPeer && a.From.Kind != EndService {
			return a, fmt.Errorf("only a peer or a service leaves by an exit, not %s", a.From)
		}
		if a.Exit != ExitDirect && a.Exit != ExitBlock && s.Exit(a.Exit) == nil && s.Chain(a.Exit) == nil {
			return a, fmt.Errorf("there is no exit %q; \"direct\" is the uplink", a.Exit)
		}
	}
	return a, err
}

func (n *Network) validatePolicy(v *validation, s *State) {
	v.max("network/policy", len(n.Policy), MaxPolicy)
	seen := map[string]int{}
	for i, text := range n.Policy {
		if _, err := s.assertion(text); err != nil {
			v.add("policy/"+strconv.Itoa(i), "%s", err)
		}
		if j, twice := seen[text]; twice {
			v.add("policy/"+strconv.Itoa(i), "is the same as /network/policy/%d", j)
		}
		seen[text] = i
	}
}
