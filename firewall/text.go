package firewall

import (
	"fmt"
	"strconv"
	"strings"
)

// String prints the policy in the field's own notation: what `nft -f` reads,
// then what `ip -4 -batch` and `ip -6 -batch` read, then sysctl.conf lines, with the assumptions
// as comments. Equal policies print equal text.
func (p Policy) String() string {
	return p.NFT() + "\n" + p.IP(4) + "\n" + p.IP(6) + "\n" + p.sysctlText() + "\n" + p.World.text()
}

// NFT is the policy's three tables as `nft -f` reads them.
func (p Policy) NFT() string {
	var b strings.Builder
	for i, t := range []Table{p.Guard, p.Main, p.Acct} {
		if i > 0 {
			b.WriteByte('\n')
		}
		t.text(&b, true)
	}
	return b.String()
}

// IP is the policy's rules and routes of one family (4 or 6) as
// `ip -4 -batch` or `ip -6 -batch` reads them.
func (p Policy) IP(family uint8) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# ip -%d -batch\n", family)
	for _, r := range p.Rules {
		if r.Family == family {
			b.WriteString(r.String() + "\n")
		}
	}
	for _, r := range p.Routes {
		if r.Prefix.Addr().Is4() == (family == 4) {
			if p.World.missing(r) {
				b.WriteString("# when the interface is there: ")
			}
			b.WriteString(r.String() + "\n")
		}
	}
	return b.String()
}

// structure is the table without its elements: two tables of equal structure
// differ by elements only.
func (t *Table) structure() string {
	var b strings.Builder
	t.text(&b, false)
	return b.String()
}

func (t *Table) text(b *strings.Builder, elements bool) {
	fmt.Fprintf(b, "table inet %s {\n", t.Name)
	for i := range t.Sets {
		t.Sets[i].text(b, elements)
	}
	for i := range t.Chains {
		t.Chains[i].text(b)
	}
	b.WriteString("}\n")
}

func typeText(fs []Field) string {
	names := make([]string, len(fs))
	for i, f := range fs {
		names[i] = kinds[fields[f].kind].name
	}
	return strings.Join(names, " . ")
}

func (s *Set) text(b *strings.Builder, elements bool) {
	word, data := "set", ""
	switch {
	case s.Verdicts:
		word, data = "map", " : verdict"
	case len(s.Data) > 0:
		word, data = "map", " : "+typeText(s.Data)
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", word, s.Name, typeText(s.Key), data)
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	if s.Counted {
		b.WriteString("\t\tcounter\n")
	}
	if elements && len(s.Elements) > 0 {
		b.WriteString("\t\telements = {\n")
		for i := range s.Elements {
			b.WriteString("\t\t\t" + s.elementText(&s.Elements[i]) + ",\n")
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

func (s *Set) elementText(e *Element) string {
	text := valuesText(s.Key, e.Key)
	if e.Last.IsValid() && e.Last != e.Key[len(e.Key)-1].Addr {
		text += "-" + e.Last.String()
	}
	switch {
	case s.Verdicts:
		text += " : goto " + e.Chain
	case len(s.Data) > 0:
		text += " : " + valuesText(s.Data, e.Data)
	}
	return text
}

func valuesText(fs []Field, vs []Value) string {
	parts := make([]string, len(fs))
	for i, f := range fs {
		parts[i] = fields[f].kind.text(vs[i])
	}
	return strings.Join(parts, " . ")
}

func (c *Chain) text(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if h := c.Hook; h != nil {
		policy := "accept"
		if h.Drop {
			policy = "drop"
		}
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy %s;\n", h.Type, h.At, h.Priority, policy)
	}
	for i := range c.Rules {
		b.WriteString("\t\t" + c.Rules[i].String() + "\n")
	}
	b.WriteString("\t}\n")
}

// String is the rule as nft writes it.
func (r Rule) String() string {
	var parts []string
	for _, m := range r.Match {
		parts = append(parts, m.String())
	}
	if r.Count {
		parts = append(parts, "counter")
	}
	if a := r.Do.String(); a != "" {
		parts = append(parts, a)
	}
	if r.Comment != "" {
		parts = append(parts, "comment "+strconv.Quote(r.Comment))
	}
	return strings.Join(parts, " ")
}

func fieldsText(fs []Field) string {
	parts := make([]string, len(fs))
	for i, f := range fs {
		parts[i] = fields[f].text
	}
	return strings.Join(parts, " . ")
}

func (m Match) String() string {
	text := fieldsText(m.Fields)
	k := fields[m.Fields[0]].kind
	switch {
	case m.Set != "" && m.Not:
		return text + " != @" + m.Set
	case m.Set != "":
		return text + " @" + m.Set
	case m.Mask != 0:
		return fmt.Sprintf("%s & 0x%02x == 0x%02x", text, m.Mask, m.Value.Num)
	case m.Not:
		return text + " != " + k.text(m.Value)
	}
	return text + " " + k.text(m.Value)
}

func (a Action) String() string {
	family := "ip"
	if a.Family == 6 {
		family = "ip6"
	}
	switch a.Kind {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Return:
		return "return"
	case Goto:
		return "goto " + a.Chain
	case Verdict:
		return fieldsText(a.Fields) + " vmap @" + a.Map
	case Relay:
		return fmt.Sprintf("tproxy %s to %s:%d accept", family, map[uint8]string{4: "127.0.0.1", 6: "[::1]"}[a.Family], a.Port)
	case RejectTCP:
		return "reject with tcp reset"
	case Reject:
		return "reject with icmpx type admin-prohibited"
	case DNAT:
		return fmt.Sprintf("dnat %s to %s map @%s", family, fieldsText(a.Fields), a.Map)
	case Masquerade:
		return "masquerade fully-random"
	case SetMark:
		return fmt.Sprintf("meta mark set 0x%02x", a.Mark)
	case MapMark:
		return fmt.Sprintf("meta mark set %s map @%s", fieldsText(a.Fields), a.Map)
	case ClampMSS:
		return "tcp option maxseg size set rt mtu"
	}
	return ""
}

// String is the rule as a line of `ip -batch`.
func (r RoutingRule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rule add pref %d", r.Priority)
	if r.From.IsValid() {
		fmt.Fprintf(&b, " from %s", r.From)
	}
	if r.InIf != "" {
		fmt.Fprintf(&b, " iif %s", r.InIf)
	}
	if r.Mask != 0 {
		fmt.Fprintf(&b, " fwmark 0x%02x/0x%02x", r.Mark, r.Mask)
	}
	if r.Action == Prohibit {
		b.WriteString(" prohibit")
	} else {
		fmt.Fprintf(&b, " lookup %d", r.Table)
	}
	fmt.Fprintf(&b, " protocol %d", routeProtocol)
	return b.String()
}

// String is the route as a line of `ip -batch`.
func (r Route) String() string {
	kind := map[RouteKind]string{Unicast: "", Local: "local ", Unreachable: "unreachable "}[r.Kind]
	dev := ""
	if r.Dev != "" {
		dev = " dev " + r.Dev
	}
	return fmt.Sprintf("route add %s%s%s table %d metric %d proto %d", kind, r.Prefix, dev, r.Table, r.Metric, routeProtocol)
}

func (s Sysctl) name() string {
	parts := s.Path[:]
	for len(parts) > 0 && parts[len(parts)-1] == "" {
		parts = parts[:len(parts)-1]
	}
	// sysctl(8) reads slashes as separators, so interface names keep their dots.
	return strings.Join(parts, "/")
}

func (p Policy) sysctlText() string {
	var b strings.Builder
	line := func(s Sysctl) {
		b.WriteString(s.name() + " = " + s.Value)
		if s.OnlyIf != "" {
			b.WriteString(" # only where it is " + s.OnlyIf)
		}
		b.WriteByte('\n')
	}
	for _, s := range p.Sysctls {
		line(s)
	}
	b.WriteString("# last, after the rest has been read back:\n")
	for _, s := range p.Forwarding {
		line(s)
	}
	return b.String()
}

func (w World) text() string {
	var b strings.Builder
	b.WriteString("# assumed of the machine:\n")
	if w.Links != nil {
		fmt.Fprintf(&b, "# interfaces %s\n", strings.Join(w.Links, " "))
	}
	for _, a := range w.Local {
		fmt.Fprintf(&b, "# local %s\n", a)
	}
	for _, r := range w.Main {
		fmt.Fprintf(&b, "# main %s dev %s\n", r.Prefix, r.Dev)
	}
	return b.String()
}
